# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train with LLaMA-Factory: `python -m training.launch CONFIG [key=value ...]`.

Every worker process registers model, plugin and template itself; LLaMA-Factory's own launcher
would lose what its parent registered. Beside LLaMA-Factory's fields a config may hold
``train_parts`` (which of ``mel_encoder``, ``adapter``, ``shared_llm``, ``refined_head`` train; all
if absent), ``halve_untranscribed_audio`` and ``skip_bad_rows`` (leave out rows that cannot be used
and count them, where training otherwise ends with their name). With ``stage: dpo`` there are
``pref_text_weight``, ``pref_speech_weight`` and ``pref_length_normalized``; see
``training.preference``.

Environment: ``NPROC_PER_NODE`` (default: GPUs, else 1), ``NNODES``, ``NODE_RANK``,
``MASTER_ADDR``, ``MASTER_PORT``.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import get_token
from transformers.integrations import get_reporting_integration_callbacks

from funaudiochat.errors import FunAudioChatError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.register import register_funaudiochat
from training.callbacks import PARTS, LossLog, ModelSettings, ResumeReport, draw_losses
from training.checkpoints import set_torn_aside
from training.eval_answers import FIELDS, AnswerLog, EvalQuestions
from training.model_card import take_hub_target, upload, write_card

logger = logging.getLogger(__name__)

_WORKER = "FUNAUDIOCHAT_TRAIN_WORKER"


class FieldLoader(yaml.SafeLoader):
    """YAML whose scalars are those that one means: 5e-4 is a number, and no is a word."""


FieldLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if not tag.endswith((":bool", ":float"))]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
FieldLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^([tT]rue|TRUE|[fF]alse|FALSE)$"), list("tTfF")
)
FieldLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|nan)$"),
    list("-+.0123456789"),
)


def read_config(path: str, overrides: list[str]) -> dict[str, Any]:
    """Read a YAML file with ``key=value`` overrides.

    Raises:
        FunAudioChatError: an unreadable file, an unknown part, or an override without ``=``.
    """
    try:
        config = dict(yaml.load(Path(path).read_text(), FieldLoader))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise FunAudioChatError(f"{path} is not a YAML file of fields: {error}") from error
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise FunAudioChatError(f"override {override!r} must have the form key=value")
        try:
            config[key] = yaml.load(value, FieldLoader)
        except yaml.YAMLError as error:
            raise FunAudioChatError(f"the value of override {override!r} is not YAML") from error
    unknown = set(config.get("train_parts") or ()) - PARTS.keys()
    if unknown:
        raise FunAudioChatError(
            f"train_parts knows no {sorted(unknown)}; there are {', '.join(PARTS)}"
        )
    return config


def _stand_in_for_torchaudio() -> None:
    """LLaMA-Factory imports torchaudio at its top and uses it only where our plugin stands."""
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stub


def prepare_llamafactory(skip_bad_rows: bool = False) -> None:
    """Let LLaMA-Factory of this process know model, plugin and template; safe to repeat."""
    # The pinned transformers is newer than LLaMA-Factory's own limit and works with it.
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    register_funaudiochat()
    _stand_in_for_torchaudio()
    from training.plugin import register

    register(skip_bad_rows)


# Loggers of transformers that print whole configurations and every file that is read.
_WORDY = (
    "configuration_utils", "feature_extraction_utils", "generation.configuration_utils",
    "modelcard", "modeling_utils", "processing_utils", "tokenization_utils_base",
)  # fmt: skip


def _quiet_loading() -> None:
    """Leave half a thousand lines of configurations out of the log; warnings stay.

    One warning goes: LLaMA-Factory takes each audio entry, a line of JSON that names its own
    file, for a path below ``media_dir`` and says of every one that it is not there. The rows'
    own check tells of audio that cannot be read.
    """
    for name in _WORDY:
        logging.getLogger(f"transformers.{name}").setLevel(logging.WARNING)
    # It names every layer that no tensor parallelism shards, where none was asked for.
    logging.getLogger("transformers.integrations.tensor_parallel").setLevel(logging.ERROR)
    logging.getLogger("llamafactory.data.converter").addFilter(_is_no_media_warning)


def _is_no_media_warning(record: logging.LogRecord) -> bool:
    return "does not exist in `media_dir`" not in record.getMessage()


def _stream_rows(config: dict[str, Any]) -> None:
    """Set what ``streaming`` needs: a worker to read, and batches that each process makes itself.

    LLaMA-Factory divides a file among the workers, and batches of audio differ in shape, so that
    the first process cannot send them to the others.
    """
    config["dataloader_num_workers"] = max(1, config.get("dataloader_num_workers") or 0)
    config["accelerator_config"] = {
        "dispatch_batches": False,
        **(config.get("accelerator_config") or {}),
    }


def train(config: dict[str, Any]) -> None:
    """Run one worker; the first one leaves a whole checkpoint folder, and loss curves if asked."""
    config = dict(config)
    hub, card_fields = take_hub_target(config), dict(config)
    parts = config.pop("train_parts", None)
    halve = config.pop("halve_untranscribed_audio", None)
    plot = config.pop("plot_loss", False)
    asked = EvalQuestions.of_config(config)
    for name in FIELDS:
        config.pop(name, None)
    if config.get("streaming"):
        _stream_rows(config)
    skip_bad_rows = config.pop("skip_bad_rows", False)
    prepare_llamafactory(skip_bad_rows)
    _quiet_loading()
    from llamafactory.train.tuner import run_exp

    # The trainer's own would run before text and speech loss are in the log.
    reporters = [kind() for kind in get_reporting_integration_callbacks(config.get("report_to"))]
    config["report_to"] = "none"
    lower = ("bf16", "fp16", "pure_bf16", "quantization_bit")
    full_precision = not any(config.get(name) for name in lower)
    settings = ModelSettings(
        parts,
        halve,
        full_precision,
        lean_losses=config["stage"] == "sft",  # other stages read logits
    )
    if config["stage"] == "dpo":
        from training.preference import install

        install(config, full_precision)
    callbacks = [settings, LossLog(), ResumeReport(), *reporters]
    if asked is not None:
        processor = FunAudioChatProcessor.from_pretrained(config["model_name_or_path"])
        tensorboard = bool({"all", "tensorboard"} & set(_reports_to(card_fields)))
        callbacks.append(AnswerLog(asked, processor, tensorboard))
    run_exp(config, callbacks=callbacks)
    if skip_bad_rows and config.get("streaming"):
        from training.plugin.rows import streamed_skips

        logger.warning("skip_bad_rows: %d rows skipped, each time they came", streamed_skips())
    if int(os.environ.get("RANK", 0)) == 0:
        output = Path(config["output_dir"])
        # LLaMA-Factory saves the tokenizer last, without the files other readers need.
        FunAudioChatProcessor.from_pretrained(config["model_name_or_path"]).save_pretrained(output)
        if plot:
            draw_losses(output)
        write_card(output, card_fields)
        if hub is not None:
            logger.info("uploaded to %s", upload(output, hub))
        adapter = (output / "adapter_config.json").is_file()
        logger.info(
            "done: %d steps; %s: %s",
            json.loads((output / "trainer_state.json").read_text())["global_step"],
            "an adapter, for `funaudiochat train merge-lora`" if adapter
            else "a checkpoint folder, for --model-path",
            output.resolve(),
        )  # fmt: skip


def _reports_to(config: dict[str, Any]) -> list[str]:
    """Return the names in ``report_to``, which is one name or a list."""
    reports = config.get("report_to") or []
    return [reports] if isinstance(reports, str) else reports


def config_problems(config: dict[str, Any]) -> list[str]:
    """Return what of a config cannot work here, with what to write instead."""

    def missing(*packages: str) -> list[str]:
        return [name for name in packages if importlib.util.find_spec(name) is None]

    problems = []
    model = config.get("model_name_or_path")
    if not model or not Path(str(model)).is_dir():
        problems.append(
            f"model_name_or_path: folder {model} not found; `funaudiochat download` fetches the "
            "official one, and model_name_or_path=FOLDER names another"
        )
    if missing("llamafactory"):
        problems.append("LLaMA-Factory is not installed; run `make train-setup`")
    has_gpu = torch.accelerator.is_available()
    if not has_gpu and not config.get("use_cpu"):
        for name in ("bf16", "fp16"):
            if config.get(name):
                problems.append(f"{name}: no GPU is available; write use_cpu=true, or {name}=false")
    if config.get("deepspeed"):
        if missing("deepspeed"):
            problems.append(
                "deepspeed is not installed; write deepspeed=null, or pip install deepspeed==0.19.8"
            )
        elif not Path(str(config["deepspeed"])).is_file():
            problems.append(f"deepspeed: file not found: {config['deepspeed']}")
    for name in _reports_to(config):
        if name == "tensorboard" and missing("tensorboard"):
            problems.append("report_to: run `make train-setup`, or write report_to=none")
    if config.get("predict_with_generate"):
        problems.append(
            "predict_with_generate: LLaMA-Factory scores answers of text alone, and this model "
            "gives text and speech; leave it out, and score the result with `funaudiochat eval`"
        )
    if config.get("push_to_hub"):
        if not config.get("hub_model_id"):
            problems.append("push_to_hub: write hub_model_id=USER/NAME, where to upload to")
        if not (config.get("hub_token") or get_token()):
            problems.append("push_to_hub: no token; run `hf auth login`, or set HF_TOKEN")
    try:
        EvalQuestions.of_config(config)
    except FunAudioChatError as error:
        problems.append(str(error))
    if config.get("stage") == "dpo":
        problems += preference_problems(config)
    return problems


PREFERENCE_LOSSES = ("sigmoid", "ipo", "orpo", "simpo")


def preference_problems(config: dict[str, Any]) -> list[str]:
    """Return what of a config of ``stage: dpo`` cannot work, with what to write instead."""
    problems = []
    if config.get("packing") or config.get("neat_packing"):
        problems.append(
            "packing: the two answers of a pair are compared row by row, so that pairs cannot be "
            "packed; write packing=false neat_packing=false"
        )
    loss = config.get("pref_loss", "sigmoid")
    if loss not in PREFERENCE_LOSSES:
        problems.append(f"pref_loss: {loss} is not supported; use {', '.join(PREFERENCE_LOSSES)}")
    for name in ("ld_alpha", "pref_bco_weight"):
        if config.get(name):
            problems.append(f"{name}: is not supported over text and speech; leave it out")
    weights = [config.get(f"pref_{stream}_weight", 1.0) for stream in ("text", "speech")]
    if not all(isinstance(w, int | float) and w >= 0 for w in weights) or not any(weights):
        problems.append(
            "pref_text_weight, pref_speech_weight: must be numbers of 0 or more, not both 0"
        )
    elif loss == "orpo" and not weights[0]:
        problems.append(
            "pref_text_weight: the odds of ORPO are undefined for an answer without learned "
            "tokens, and a written answer has only text; write a weight above 0"
        )
    return problems


def main() -> None:
    """Start the workers, or be one."""
    logging.basicConfig(level=logging.INFO)
    try:
        config = read_config(sys.argv[1], sys.argv[2:])
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
    problems = config_problems(config)
    if problems:
        sys.exit("\n".join(f"error: {problem}" for problem in problems))
    if not os.environ.get(_WORKER):  # once for all workers
        for folder in set_torn_aside(config):
            logger.warning("%s is not whole; the one before it, if any, is resumed from", folder)
    processes = int(os.environ.get("NPROC_PER_NODE") or max(1, torch.cuda.device_count()))
    nodes = int(os.environ.get("NNODES") or 1)
    if os.environ.get(_WORKER) or processes * nodes == 1:
        try:
            return train(config)
        except FunAudioChatError as error:
            sys.exit(f"error: {error}")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={processes}",
        f"--nnodes={nodes}",
        f"--node_rank={os.environ.get('NODE_RANK', 0)}",
        f"--master_addr={os.environ.get('MASTER_ADDR', '127.0.0.1')}",
        f"--master_port={os.environ.get('MASTER_PORT', 29500)}",
        "-m",
        "training.launch",
        *sys.argv[1:],
    ]
    environment = {**os.environ, _WORKER: "1"}
    if config.get("use_cpu") or not torch.accelerator.is_available():
        # accelerate's own choice is "cpu:0", to which torch.load cannot restore a checkpoint.
        environment.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    raise SystemExit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
