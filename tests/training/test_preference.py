# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Preference training: its log-probabilities, losses, gradients and runs."""

import copy
import functools
import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml

from funaudiochat.errors import FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers.golden import TINY_A
from tests.helpers.pairs import pair, rows_of_every_kind, spoken, write_pairs, write_wav
from tests.helpers.tiny_runs import TINY, needs_llamafactory, run_script, weights_of
from tests.training.test_preference_rows import encode
from training.launch import config_problems, read_config

pytestmark = needs_llamafactory

KINDS = list(rows_of_every_kind(None))
LN_2 = pytest.approx(math.log(2), abs=1e-6)


@pytest.fixture(scope="module")
def processor():
    from training.launch import prepare_llamafactory

    prepare_llamafactory()  # before anything of LLaMA-Factory is imported
    return FunAudioChatProcessor.from_pretrained(TINY_A)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return rows_of_every_kind(write_wav(tmp_path_factory.mktemp("pairs") / "q.wav"))


@functools.cache
def reference():
    """Return the start of every model, at the scale of answering.

    At half scale, a batch without transcripts is not halved, so that company would matter.
    """
    model = FunAudioChatForConditionalGeneration.from_pretrained(TINY_A).eval()
    model.config.halve_untranscribed_audio = False
    return model


@pytest.fixture
def model():
    return copy.deepcopy(reference()).train()


def batch_of(processor, *rows) -> dict:
    """Collate pairs as a run does, without the names of the rows."""
    from llamafactory.data.template import TEMPLATES

    encoded = encode(processor, *rows)
    from training.preference import PairCollator

    collate = PairCollator(
        template=TEMPLATES["funaudiochat"], tokenizer=processor.tokenizer, processor=processor,
        pad_to_multiple_of=8, label_pad_token_id=-100,
    )  # fmt: skip
    batch = dict(collate([dict(zip(encoded, one, strict=True))
                          for one in zip(*encoded.values(), strict=True)]))  # fmt: skip
    assert len(batch.pop("row_names")) == 2 * len(rows)
    return batch


def trainer_of(loss="sigmoid", ftx=0.0, beta=0.1, **settings):
    """Return a trainer without a run: what computes losses from log-probabilities."""
    from training.preference import PreferenceSettings, PreferenceTrainer

    trainer = object.__new__(PreferenceTrainer)
    trainer.settings = PreferenceSettings(**settings)
    trainer.loss_type, trainer.beta, trainer.ftx_gamma, trainer.simpo_gamma = loss, beta, ftx, 0.5
    trainer.label_smoothing, trainer.reference_free, trainer.ld_alpha = 0.0, False, None
    trainer.f_divergence_type = "reverse_kl"
    trainer.accelerator = SimpleNamespace(device="cpu", unwrap_model=lambda model: model)
    uses = loss not in ("orpo", "simpo")
    trainer.finetuning_args = SimpleNamespace(use_ref_model=uses)
    trainer.state = SimpleNamespace(global_step=0)
    trainer.ref_model = reference()
    return trainer


def move(model, size=0.01):
    """Change all weights a little, so that policy and reference differ."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_a_plain_forward_pass_summed_by_hand(
    model, processor, rows, kind
):
    with torch.no_grad():
        together = model(
            **batch_of(processor, rows[kind], rows["spoken answers"]), row_log_probs=True
        )
    row = rows[kind]
    batch = batch_of(processor, row)
    with torch.no_grad():
        output = model.eval()(**batch, row_log_probs=True)
        plain = model(**batch)  # all logits; in evaluation, so that nothing is left out
    labels = batch["labels"]
    merged = batch.get("speech_ids") is not None
    audio, end = model.config.audio_token_index, model.config.text_config.audio_eos_index
    texts, speech_ids = iter([]), iter([])
    if merged:  # every audio in order: its groups of speech tokens, its words and then silence
        sil = model.config.text_config.sil_index
        tokens, valid = batch["speech_ids"], batch["speech_attention_mask"].bool()
        groups = [-(-int(v.sum()) // 5) for v in valid]
        speech_ids = iter(
            [
                t[5 * g : 5 * g + 5].tolist()
                for t, n in zip(tokens, groups, strict=True)
                for g in range(n)
            ]
        )
        words = [
            [i for i in ids.tolist() if i != processor.tokenizer.pad_token_id]
            for ids in batch["text_ids"]
        ]
        texts = iter([i for w, n in zip(words, groups, strict=True) for i in (w + [sil] * n)[:n]])
    for index in range(2):
        text_sum = speech_sum = 0.0
        text_count = speech_count = 0
        text = F.log_softmax(plain.logits[index].float(), -1)
        speech = None
        if plain.speech_logits is not None:
            speech = F.log_softmax(plain.speech_logits[index].float(), -1)
        for at, (token, label) in enumerate(
            zip(batch["input_ids"][index].tolist(), labels[index].tolist(), strict=True)
        ):
            word, group = label, None
            if token == audio:
                word, group = next(texts), next(speech_ids)
            if label == end and merged:
                group = [model.config.audio_config.eos_token_id] * 5
            if label == -100:
                continue
            text_sum += float(text[at - 1, word])
            text_count += 1
            for j, code in enumerate(group or []):
                speech_sum += float(speech[5 * (at - 1) + j, code])
                speech_count += 1
        close = {"rel": 1e-5, "abs": 1e-5}
        for result, at in ((output, index), (together, 2 * index)):
            assert float(result.text_log_probs[at]) == pytest.approx(text_sum, **close)
            assert float(result.speech_log_probs[at]) == pytest.approx(speech_sum, **close)
            assert int(result.text_target_counts[at]) == text_count
            assert int(result.speech_target_counts[at]) == speech_count
        side = ("chosen", "rejected")[index]
        assert (speech_count > 0) == bool(row[f"{side}_audio"])


def test_they_are_the_losses_of_fine_tuning(model, processor, rows):
    batch = batch_of(processor, rows["spoken answers"], rows["several turns"], rows["text"])
    losses = model(**batch)
    sums = model(**batch, row_log_probs=True)
    for name in ("text", "speech"):
        total, count = getattr(sums, f"{name}_log_probs"), getattr(sums, f"{name}_target_counts")
        loss = -total.sum() / count.sum()
        torch.testing.assert_close(loss, getattr(losses, f"{name}_loss"), rtol=1e-5, atol=1e-6)
    with pytest.raises(FunAudioChatError, match="needs labels"):
        model(input_ids=batch["input_ids"], row_log_probs=True)


def test_the_head_runs_only_where_speech_is_learned(model, processor, rows):
    runs = []
    model.audio_invert_tower.crq_transformer.register_forward_hook(
        lambda module, inputs, output: runs.append(len(output.last_hidden_state))
    )
    for kind, expected in (("text", []), ("spoken question", []), ("one spoken answer", [1])):
        output = model(**batch_of(processor, rows[kind]), row_log_probs=True)
        assert runs == expected and output.logits is output.speech_logits is None


@pytest.mark.parametrize("kind", ["text", "spoken answers", "one spoken answer"])
def test_the_first_loss_is_ln_2_and_other_weights_give_other_losses(model, processor, rows, kind):
    batch = batch_of(processor, rows[kind], rows["tools"])
    loss, metrics = trainer_of().get_batch_loss_metrics(model, batch)
    assert loss.item() == LN_2 and metrics["rewards/margins"] == 0
    move(model)
    seen = set()
    for settings in (
        {}, {"speech_weight": 0.0}, {"text_weight": 0.0}, {"speech_weight": 0.3},
        {"length_normalized": True},
    ):  # fmt: skip
        loss, metrics = trainer_of(**settings).get_batch_loss_metrics(model, batch)
        seen.add(round(loss.item(), 7))
        parts = metrics["rewards/text_margins"] + metrics["rewards/speech_margins"]
        assert parts == pytest.approx(metrics["rewards/margins"], abs=1e-6)
    assert len(seen) == 5


@pytest.mark.parametrize("ftx", [0.0, 0.4])
@pytest.mark.parametrize("loss", ["sigmoid", "orpo", "simpo"])
def test_on_written_answers_the_numbers_are_the_librarys_own(model, processor, rows, loss, ftx):
    batch = batch_of(processor, rows["text"], rows["spoken question"])
    move(model)
    trainer = trainer_of(loss, ftx)
    value, metrics = trainer.get_batch_loss_metrics(model, batch)
    trainer.finetuning_args.pref_bco_weight = trainer.bco_gemma = 0.0
    # Runs of other tests put our class in the place of the library's, under its name.
    library_trainer = type(trainer).__base__
    expected, others = library_trainer.get_batch_loss_metrics(trainer, model, batch)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    for name in ("rewards/margins", "rewards/chosen", "rewards/accuracies", "logps/rejected"):
        assert metrics[name] == pytest.approx(others[name], rel=1e-5, abs=1e-5)


def test_ipo_is_the_squared_distance_of_the_mean_margins(model, processor, rows):
    batch = batch_of(processor, rows["text"], rows["spoken answers"])
    move(model)
    trainer = trainer_of("ipo", beta=0.2)
    value, _ = trainer.get_batch_loss_metrics(model, batch)
    means = []
    for one in (model, trainer.ref_model):
        with torch.no_grad():
            sums = one(**batch, row_log_probs=True)
        means.append(sums.text_log_probs / sums.text_target_counts
                     + sums.speech_log_probs / sums.speech_target_counts.clamp(min=1))  # fmt: skip
    chosen, rejected = (means[0] - means[1]).chunk(2)
    expected = ((chosen - rejected - 1 / (2 * 0.2)) ** 2).mean()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_padding_and_company_change_no_loss(model, processor, rows):
    move(model)
    trainer = trainer_of(ftx=0.2)
    single = [trainer.get_batch_loss_metrics(model, batch_of(processor, row))[0].item()
              for row in rows.values()]  # fmt: skip
    together, _ = trainer.get_batch_loss_metrics(model, batch_of(processor, *rows.values()))
    assert together.item() == pytest.approx(sum(single) / len(single), rel=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "orpo", "simpo"])
def test_gradients_are_those_of_finite_differences(model, processor, rows, loss, monkeypatch):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def normalized(self, hidden):  # transformers' own computes in float32
        return self.weight * hidden * (hidden.pow(2).mean(-1, True) + self.variance_epsilon).rsqrt()

    monkeypatch.setattr(Qwen3RMSNorm, "forward", normalized)
    batch = batch_of(processor, rows["spoken answers"], rows["spoken question"])
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    move(model.double())
    trainer = trainer_of(loss, ftx=0.3, speech_weight=0.7)
    trainer.ref_model = copy.deepcopy(reference()).double()

    def value():
        return trainer.get_batch_loss_metrics(model, batch)[0]

    value().backward()
    torch.manual_seed(1)
    # Text embeddings reach the head without a gradient (rule 19): theirs is not the slope.
    for prefix in ("language_model.model.layers", "language_model.model.norm",
                   "audio_invert_tower", "audio_tower", "continuous_audio_tower"):  # fmt: skip
        named = [p for n, p in model.named_parameters()
                 if n.startswith(prefix) and p.grad is not None]  # fmt: skip
        steps = [torch.randn_like(p) for p in named]
        for parameter, step in zip(named, steps, strict=True):
            if parameter is model.audio_tower.embed_tokens.weight:
                step[model.audio_tower.embed_tokens.padding_idx] = 0  # learns nothing as an input
        slope = sum(float((p.grad * d).sum()) for p, d in zip(named, steps, strict=True))
        size, results = 1e-5, []
        with torch.no_grad():
            for sign in (1, -2):
                for p, d in zip(named, steps, strict=True):
                    p.add_(sign * size * d)
                results.append(float(value()))
            for p, d in zip(named, steps, strict=True):
                p.add_(size * d)
        measured = (results[0] - results[1]) / (2 * size)
        assert slope != 0 and measured == pytest.approx(slope, rel=1e-4), prefix


def test_the_reference_hears_the_user_at_the_models_own_scale(processor, rows, tmp_path):
    out = train(tmp_path, [rows["spoken answers"], rows["spoken question"]], max_steps=1,
                halve_untranscribed_audio=True)  # fmt: skip
    (step,) = log_of(out)
    assert step["loss"] == LN_2 and step["rewards/margins"] == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"packing": True}, "packing=false"),
        ({"neat_packing": True}, "packing=false"),
        ({"pref_loss": "kto_pair"}, "sigmoid, ipo, orpo, simpo"),
        ({"pref_text_weight": -1}, "0 or more"),
        ({"pref_text_weight": 0, "pref_speech_weight": 0}, "not both 0"),
        ({"pref_speech_weight": "much"}, "must be numbers"),
        ({"pref_loss": "orpo", "pref_text_weight": 0}, "ORPO"),
        ({"ld_alpha": 0.5}, "ld_alpha"),
        ({"pref_bco_weight": 0.5}, "pref_bco_weight"),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(fields, says, tmp_path):
    config = read_config(str(TINY / "dpo.yaml"), []) | {"model_name_or_path": str(tmp_path)}
    assert config_problems(config) == []
    (told,) = config_problems(config | fields)
    assert says in told


# ---- Runs


def train(folder, rows, **fields):
    """Train on pairs in this process, as a worker does, and return the output folder."""
    from training.launch import train as run

    write_pairs(folder / "data", rows)
    config = yaml.safe_load((TINY / "dpo.yaml").read_text())
    config |= {
        "model_name_or_path": str(TINY_A), "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "out"), "plot_loss": False, "pref_ftx": 0.0,
        "save_strategy": "no",
    }  # fmt: skip
    run(config | fields)
    return folder / "out"


def log_of(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


UNLIKE = [pair("which way?", spoken("warm", 3), spoken("cold", 60, groups=4))]
LORA = {"finetuning_type": "lora", "lora_rank": 8, "learning_rate": 1e-2}


@pytest.mark.parametrize(
    "fields", [{}, {"pref_ftx": 0.2}, LORA, {"pref_loss": "simpo"}],
    ids=["full", "with SFT term", "LoRA", "SimPO"],
)  # fmt: skip
def test_spoken_answers_that_share_nothing_are_learned_apart(tmp_path, fields):
    steps = log_of(train(tmp_path, UNLIKE, max_steps=12, **{"learning_rate": 1e-3, **fields}))
    if fields.get("pref_loss") != "simpo":
        sft = fields.get("pref_ftx", 0) * steps[0]["sft_loss"]
        assert steps[0]["loss"] - sft == pytest.approx(math.log(2), abs=2e-4)
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"] or "pref_ftx" in fields
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["rewards/accuracies"] == 1
    assert steps[-1]["rewards/speech_margins"] > 0 and steps[-1]["rewards/text_margins"] > 0


def test_all_kinds_of_pairs_train_and_are_evaluated_together(tmp_path, rows):
    fields = {"eval_dataset": "tiny_pairs", "eval_strategy": "steps", "eval_steps": 1}
    out = train(tmp_path, list(rows.values()), max_steps=2, per_device_eval_batch_size=4, **fields)
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    evaluated = [entry for entry in history if "eval_loss" in entry]
    assert {"eval_rewards/margins", "eval_rewards/speech_margins"} <= evaluated[0].keys()
    FunAudioChatForConditionalGeneration.from_pretrained(out)  # a checkpoint folder


def test_a_loss_of_nan_ends_the_run_with_the_rows(tmp_path):
    with pytest.raises(FunAudioChatError, match=r"Its rows: tiny_pairs\.jsonl, row 1\."):
        train(tmp_path, UNLIKE, learning_rate=1e30, max_steps=6, max_grad_norm=0)
    assert not list((tmp_path / "out").rglob("model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, LORA], ids=["full", "LoRA"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, rows, fields):
    kept = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2, **fields}
    several = list(rows.values())
    whole = train(tmp_path / "whole", several, max_steps=4, **kept)
    (tmp_path / "part").mkdir()
    train(tmp_path / "part", several, max_steps=2, **kept)
    resumed = train(tmp_path / "part", several, max_steps=4, **kept)
    last = [[entry["loss"] for entry in log_of(out)] for out in (whole, resumed)]
    assert len(last[0]) == 4 and last[0] == last[1]
    if fields:
        from safetensors.torch import load_file

        one, two = (load_file(out / "adapter_model.safetensors") for out in (whole, resumed))
    else:
        one, two = weights_of(whole), weights_of(resumed)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", ["of every kind", "written"])
@pytest.mark.parametrize("fields", [{}, LORA], ids=["full", "LoRA"])
def test_two_processes_give_the_losses_of_one(tmp_path, rows, fields, kinds):
    several = list(rows.values())[: 4 if kinds == "of every kind" else 1] * 2
    data = write_pairs(tmp_path / "data", several[:8]).parent
    losses = []
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        options = {
            "model_name_or_path": TINY_A, "dataset_dir": data, "output_dir": out, "max_steps": 3,
            "per_device_train_batch_size": 2 // processes, "save_strategy": '"no"',
            "plot_loss": "false", "disable_shuffling": "true", **fields,
        }  # fmt: skip
        run_script(
            "run.sh", tmp_path, *(f"{name}={value}" for name, value in options.items()),
            CONFIG_FILE=str(TINY / "dpo.yaml"), NPROC_PER_NODE=str(processes), MASTER_PORT="29563",
        )  # fmt: skip
        losses.append([entry["loss"] for entry in log_of(out)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
