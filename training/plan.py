# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Compute the memory that a training config needs on each GPU, and the batch that fits.

Parameters are counted and activations traced on the real modules without data, on torch's meta
device, where tensors have shapes but no memory. The effect of ZeRO and FSDP on parameters,
gradients and optimizer states is computed (:func:`static_bytes`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.errors import FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.serving_plan import parse_size
from training.callbacks import freeze_other_parts
from training.launch import read_config

GIB = 1 << 30
# The driver's context, kernels, and the allocator's fragmentation.
RUNTIME_BYTES = 2 * GIB
_WINDOW_SECONDS, _WINDOW_POSITIONS = 2, 100
# DeepSpeed's defaults for fields missing in its JSON, in elements.
_BUCKET, _LIVE_PARAMETERS = 500_000_000, 1_000_000_000


@dataclass(frozen=True)
class Sharding:
    """How states are sharded: ``stage`` as in ZeRO (0 plain DDP; FSDP is 3 with its precision)."""

    stage: int = 0
    fsdp: bool = False
    deepspeed: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket: int = _BUCKET
    live_parameters: int = _LIVE_PARAMETERS

    @property
    def name(self) -> str:
        if self.fsdp:
            return "FSDP"
        return f"ZeRO-{self.stage}" if self.deepspeed else "DDP"


@dataclass(frozen=True)
class Activations:
    """Bytes of one row: kept until the backward pass, and the temporary peak on top of them."""

    kept: int
    moment: int


@dataclass(frozen=True)
class Plan:
    """Bytes on one GPU; ``rows`` is the config's batch per GPU, of pairs in preference training."""

    sharding: Sharding
    trainable: int
    frozen: int
    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    reference: int
    row: Activations
    rows: int
    gpu_memory: int

    @property
    def static(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.buffers + self.reference

    @property
    def activations(self) -> int:
        return self.rows * (self.row.kept + self.row.moment)

    @property
    def total(self) -> int:
        return self.static + self.activations + RUNTIME_BYTES

    @property
    def largest_batch(self) -> int:
        """Largest batch per GPU that fits; 0 if none does."""
        room = self.gpu_memory - self.static - RUNTIME_BYTES
        return max(0, room // (self.row.kept + self.row.moment))


def read_sharding(config: dict[str, Any], folder: Path) -> Sharding:
    """Sharding of a LLaMA-Factory config; its DeepSpeed file is relative to ``folder``.

    Raises:
        FunAudioChatError: the DeepSpeed file cannot be read.
    """
    if config.get("fsdp"):
        return Sharding(stage=3, fsdp=True)
    if not config.get("deepspeed"):
        return Sharding()
    path = folder / config["deepspeed"]
    try:
        zero = json.loads(path.read_text()).get("zero_optimization", {})
    except (OSError, ValueError) as error:
        raise FunAudioChatError(f"the DeepSpeed file {path} cannot be read: {error}") from error
    return Sharding(
        stage=zero.get("stage", 0),
        deepspeed=True,
        offload_optimizer=zero.get("offload_optimizer", {}).get("device") in ("cpu", "nvme"),
        offload_parameters=zero.get("offload_param", {}).get("device") in ("cpu", "nvme"),
        bucket=int(zero.get("reduce_bucket_size", _BUCKET)),
        live_parameters=int(zero.get("stage3_max_live_parameters", _LIVE_PARAMETERS)),
    )


def static_bytes(
    sharding: Sharding, trainable: int, frozen: int, largest_unit: int, gpus: int, half: bool
) -> dict[str, int]:
    """Compute bytes per GPU of parameters, gradients, optimizer states and buffers.

    Args:
        sharding: how states are sharded.
        trainable: number of trainable parameters.
        frozen: number of frozen parameters.
        largest_unit: parameters that FSDP gathers at a time.
        gpus: number of GPUs.
        half: bfloat16 or float16 training.
    """
    every, compute = trainable + frozen, 2 if half else 4
    if sharding.fsdp:
        return {
            "parameters": 4 * every // gpus,
            "gradients": 4 * trainable // gpus,
            "optimizer": 8 * trainable // gpus,
            "buffers": (compute + 4) * largest_unit if gpus > 1 else 0,
        }
    if not sharding.deepspeed:
        # Trainable parameters are float32; autocast keeps a half copy, DDP a bucket of gradients.
        copies = (2 * trainable if half else 0) + (4 * trainable if gpus > 1 else 0)
        return {
            "parameters": 4 * trainable + compute * frozen,
            "gradients": 4 * trainable,
            "optimizer": 8 * trainable,
            "buffers": copies,
        }
    shares = [gpus if sharding.stage >= stage else 1 for stage in (3, 2, 1)]
    # A float32 copy of the parameters and Adam's two moments.
    found = {
        "parameters": compute * every // shares[0],
        "gradients": compute * trainable // shares[1],
        "optimizer": 12 * trainable // shares[2],
        "buffers": 3 * compute * min(sharding.bucket, trainable),
    }
    if sharding.stage == 3:
        found["buffers"] += compute * min(sharding.live_parameters, every)
    if sharding.offload_optimizer:
        found["optimizer"] = found["gradients"] = 0
    if sharding.offload_parameters:
        found["parameters"] = 0
    return found


class _Attention(torch.autograd.Function):
    """Return what a fused attention kernel keeps: inputs, output and one number per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]).float())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("only the forward pass is planned")


class _Traced(TorchFunctionMode):
    """Emulates fused attention kernels, which the meta device lacks.

    Data-dependent conditions (e.g. ``mask.all()``) evaluate to True: transformers
    asks whether masks and positions are trivial.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            shape = (*key.shape[:1], query.shape[1], *key.shape[2:])
            if key.shape[1] != query.shape[1]:  # grouped heads are repeated beside a mask
                key, value = key.new_empty(shape), value.new_empty(shape)
            return _Attention.apply(query, key, value)
        if func is Tensor.__bool__:
            return True
        return func(*args, **(kwargs or {}))


def kept_bytes(run: Callable[[], Any], parameters: Sequence[Tensor]) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, without parameters."""
    own = {p.untyped_storage()._cdata for p in parameters}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


def trace_row(
    model: FunAudioChatForConditionalGeneration,
    tokens: int,
    audio_seconds: float,
    checkpointing: bool,
) -> Activations:
    """Trace the activations of one row on a model on the meta device.

    Args:
        model: the model, on the meta device.
        tokens: positions of the backbone; the head has ``group_size`` times as many.
        audio_seconds: seconds of audio for the mel encoder.
        checkpointing: whether gradient checkpointing is on.
    """
    group, width = model.config.audio_config.group_size, model.config.text_config.hidden_size
    dtype, parameters = next(model.parameters()).dtype, list(model.parameters())
    windows = max(1, round(audio_seconds / _WINDOW_SECONDS))
    tower = model.continuous_audio_tower
    real = torch.ones(windows, _WINDOW_POSITIONS, dtype=torch.bool, device="meta")

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)

    def encoder() -> Tensor:
        hidden = empty(windows, _WINDOW_POSITIONS, model.config.audio_config.d_model)
        for layer in tower.layers:
            hidden = layer(hidden, real)
        return tower.proj(tower.ln_post(hidden))

    def backbone() -> Tensor:
        return model.language_model.model(
            inputs_embeds=empty(1, tokens, width), use_cache=False
        ).last_hidden_state

    def head() -> Tensor:
        return model.audio_invert_tower(
            empty(1, tokens, width), None, None, empty(1, tokens * group, width)
        )

    def loss(scores: Tensor, shift: int) -> Tensor:
        labels = torch.empty(scores.shape[:2], dtype=torch.long, device="meta")
        return model._cross_entropy(scores[:, :-shift], labels[:, shift:])

    def text() -> Tensor:
        return loss(model.language_model.lm_head(empty(1, tokens, width)), 1)

    def speech() -> Tensor:
        return loss(empty(1, tokens * group, model.config.audio_config.codebook_size), group)

    audio = model.config.audio_config
    stacks = [
        (backbone, model.config.text_config.num_hidden_layers),
        (head, len(model.audio_invert_tower.crq_transformer.layers)),
        (encoder, audio.encoder_layers),
    ]
    with _Traced():
        plain = [kept_bytes(run, parameters) for run, _ in stacks]
        kept = list(plain)
        if checkpointing:
            model.gradient_checkpointing_enable(
                {"use_reentrant": True, "preserve_rng_state": False}
            )
            kept = [kept_bytes(run, parameters) for run, _ in stacks]
            model.gradient_checkpointing_disable()
        losses = kept_bytes(text, parameters) + kept_bytes(speech, parameters)
    layer = max(bytes_ // layers for bytes_, (_, layers) in zip(plain, stacks, strict=True))
    # The gradient of the scores in float32 and in the precision of the run.
    scores = tokens * model.config.text_config.vocab_size * (4 + dtype.itemsize)
    return Activations(sum(kept) + losses, max(layer if checkpointing else 0, scores))


def _on_meta(config: FunAudioChatConfig, half: bool) -> FunAudioChatForConditionalGeneration:
    with torch.device("meta"):
        model = FunAudioChatForConditionalGeneration(config)
    model.to(torch.bfloat16 if half else torch.float32)  # type: ignore
    return model.train()


def _count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def _adapter_parameters(model: nn.Module, rank: int, targets: list[str]) -> int:
    """Count the parameters of a LoRA adapter over the linear layers of the trainable parts."""
    return sum(
        rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and "lm_head" not in name
        and module.weight.requires_grad
        and (targets == ["all"] or name.split(".")[-1] in targets)
    )


def _quantized_savings(model: nn.Module, config: dict[str, Any], compute_bytes: int) -> int:
    """Return the bytes saved by ``quantization_bit`` in the backbone's linear layers.

    Raises:
        FunAudioChatError: bitsandbytes has no such width, or it does not go with the sharding.
    """
    bits = config.get("quantization_bit")
    if bits is None:
        return 0
    if bits not in (4, 8):
        raise FunAudioChatError(f"quantization_bit is {bits}; bitsandbytes knows 4 and 8")
    if config.get("finetuning_type", "lora") != "lora":
        raise FunAudioChatError("quantized weights do not train; write finetuning_type: lora")
    # 4 bits: a scale of 8 bits for each 64 values; 8 bits: a scale for each row.
    stored_bytes = 4 / 8 + (1 / 64 if config.get("double_quantization", True) else 1 / 16)
    stored_bytes = 1.0 if bits == 8 else stored_bytes
    weights = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("language_model.model.")
    )
    return int(weights * (compute_bytes - stored_bytes))


def _reference_bytes(
    config: dict[str, Any], sharding: Sharding, every: int, gpus: int, compute_bytes: int
) -> int:
    """Return the bytes of the frozen start that preference training keeps beside the model.

    With LoRA it is the model itself with its adapter off; ORPO and SimPO need none. Only ZeRO-3
    shards it.
    """
    if (
        config.get("stage") != "dpo"
        or config.get("pref_loss") in ("orpo", "simpo")
        or config.get("finetuning_type") == "lora"
    ):
        return 0
    return compute_bytes * every // (gpus if sharding.deepspeed and sharding.stage == 3 else 1)


def make_plan(
    config: dict[str, Any],
    model_config: FunAudioChatConfig,
    folder: Path,
    gpus: int,
    gpu_memory: int,
    audio_seconds: float = 30.0,
) -> Plan:
    """Plan a LLaMA-Factory config.

    Args:
        config: its fields; rows are taken to be ``cutoff_len`` tokens long.
        model_config: of the model to train.
        folder: what paths in the config are relative to.
        gpus: in all nodes together.
        gpu_memory: bytes of one.
        audio_seconds: seconds of spoken questions in a row.

    Raises:
        FunAudioChatError: a file that the config names cannot be read, or its quantization cannot
            be planned.
    """
    sharding = read_sharding(config, folder)
    half = bool(config.get("bf16") or config.get("fp16"))
    # Under autocast the residual stream stays in float32; counting it so is an upper bound.
    model = _on_meta(model_config, half and (sharding.deepspeed or sharding.fsdp))
    if config.get("train_parts"):
        freeze_other_parts(model, config["train_parts"])
    every = _count(model.parameters())
    if config.get("finetuning_type") == "lora":
        targets = str(config.get("lora_target", "all")).replace(" ", "").split(",")
        trainable = _adapter_parameters(model, int(config.get("lora_rank", 8)), targets)
        frozen = every
    else:
        trainable = _count(p for p in model.parameters() if p.requires_grad)
        frozen = every - trainable
    saved = _quantized_savings(model, config, 2 if half else 4)
    if saved and sharding.stage == 3:
        raise FunAudioChatError(
            f"quantization_bit with {sharding.name} is not planned; write deepspeed=null, or "
            "configs/ds_z2.json"
        )
    layers = model.language_model.model.layers
    # FSDP gathers the parameters outside of layers, and two layers, one of them ahead of time.
    in_layers = sum(
        _count(stack.parameters())
        for stack in (
            layers,
            model.audio_invert_tower.crq_transformer.layers,
            model.continuous_audio_tower.layers,
        )
    )
    unit = every - in_layers + 2 * _count(layers[0].parameters())
    row = trace_row(
        model,
        int(config.get("cutoff_len", 2048)),
        audio_seconds,
        not config.get("disable_gradient_checkpointing", False),
    )
    if config.get("stage") == "dpo":  # a pair is two rows
        row = Activations(2 * row.kept, 2 * row.moment)
    static = static_bytes(sharding, trainable, frozen, unit, gpus, half)
    static["parameters"] -= saved
    return Plan(
        sharding=sharding,
        trainable=trainable,
        frozen=frozen,
        **static,
        reference=_reference_bytes(config, sharding, every, gpus, 2 if half else 4),
        row=row,
        rows=int(config.get("per_device_train_batch_size", 1)),
        gpu_memory=gpu_memory,
    )


def plan_file(
    path: Path,
    overrides: list[str],
    gpus: int,
    gpu_memory: str,
    model: Path | None,
    audio_seconds: float,
) -> tuple[list[str], bool]:
    """Plan a config file; return the report's lines and whether its batch fits.

    Args:
        path: the config; paths in it are relative to ``training/``, as for ``run_shell/run.sh``.
        overrides: ``key=value``, as the launcher takes them.
        gpus: number of GPUs.
        gpu_memory: a size as :func:`funaudiochat.serving_plan.parse_size` reads it.
        model: config.json, or its folder; the config's own model if None.
        audio_seconds: seconds of spoken questions in a row.

    Raises:
        FunAudioChatError: a file is missing or damaged, or an override lacks the form
            ``key=value``.
    """
    config, folder = read_config(str(path), overrides), Path(__file__).parent
    source = model or folder / str(config.get("model_name_or_path"))
    plan = make_plan(
        config, _model_config(source), folder, gpus, parse_size(gpu_memory), audio_seconds
    )
    unit = "pairs" if config.get("stage") == "dpo" else "rows"
    parts = {
        f"parameters ({(plan.trainable + plan.frozen) / 1e9:.2f} B)": plan.parameters,
        f"gradients ({plan.trainable / 1e9:.2f} B train)": plan.gradients,
        "optimizer states": plan.optimizer,
        "buffers": plan.buffers,
        **({"reference model": plan.reference} if plan.reference else {}),
        f"activations ({plan.rows} {unit})": plan.activations,
        "runtime": RUNTIME_BYTES,
        "in all": plan.total,
    }
    lines = [f"{plan.sharding.name} on {gpus} GPUs, GiB on each:"]
    lines += [f"  {name:30}{value / GIB:9.2f}" for name, value in parts.items()]
    fits = plan.largest_batch >= plan.rows
    verdict = "fits" if fits else "DOES NOT FIT"
    lines.append(f"{verdict} into {gpu_memory}; largest batch per GPU: {plan.largest_batch}")
    return lines, fits


def _model_config(path: Path) -> FunAudioChatConfig:
    file = path / "config.json" if path.is_dir() else path
    try:
        fields = json.loads(file.read_text())
        fields.pop("model_type")
        return FunAudioChatConfig(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FunAudioChatError(
            f"{file} is not the config of a Fun-Audio-Chat model ({error}); give --model, "
            "for example training/configs/model_8b.json"
        ) from error
