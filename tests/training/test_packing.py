# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Random batches give the same losses and gradients padded and packed, on every back end."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funaudiochat.audio import save_wav
from funaudiochat.constants import AUDIO_TEMPLATE
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers.golden import TINY_A


@dataclass(frozen=True)
class Sample:
    """A row: seconds of the question (0: typed), speech tokens of the answer (0: written)."""

    seconds: float
    codes: int
    transcript: str
    text: str


SAMPLES = st.builds(
    Sample,
    seconds=st.sampled_from([0.0, 0.1, 0.5, 2.3]),
    codes=st.sampled_from([0, 1, 12, 30]),
    transcript=st.sampled_from(["", "left", "the old tower"]),
    text=st.sampled_from(["", "warm", "tall and cold"]),
)
BATCHES = st.lists(SAMPLES, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio")
    for seconds in (0.1, 0.5, 2.3):
        t = np.arange(round(16000 * seconds)) / 16000
        save_wav(path / f"{seconds}.wav", 0.3 * np.sin(2000 * t) * np.sin(9 * t), 16000)
    return path


@pytest.fixture(scope="module")
def processor():
    return FunAudioChatProcessor.from_pretrained(TINY_A)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return FunAudioChatForConditionalGeneration.from_pretrained(
        TINY_A, attn_implementation=request.param
    ).train()


def spell(sample: Sample, processor, folder) -> tuple[list[int], list[int], list[str]]:
    """Ids, labels and audio entries of a sample."""
    audios = []
    question, answer = "which way?", sample.text or "old"
    if sample.seconds:
        question = AUDIO_TEMPLATE
        path = str(folder / f"{sample.seconds}.wav")
        audios.append(json.dumps({"path": path, "text": sample.transcript}))
    if sample.codes:
        answer = AUDIO_TEMPLATE
        codes = "".join(f"[AU{7 * n % 125:04d}]" for n in range(sample.codes))
        token = "<|audio_bos|>" * 10 + codes
        audios.append(json.dumps({"token": token, "text": sample.text}))
    parts = [
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
        f"{answer}<|im_end|>\n",
    ]
    prompt, target = (
        processor.tokenizer(text, add_special_tokens=False).input_ids
        for text in processor.expand_placeholders(parts, audios)
    )
    return prompt + target, [-100] * len(prompt) + target, audios


def step(model, inputs: dict, entries: list[str], processor):
    """Losses and gradients of a batch."""
    if entries:
        audio = processor.encode_audios(entries, "longest", transcripts=True)
        inputs = inputs | {name: torch.as_tensor(value) for name, value in audio.items()}
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output, gradients


def padded(samples) -> dict[str, torch.Tensor]:
    def stack(rows, fill):
        rows = [torch.tensor(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)

    return {
        "input_ids": stack([ids for ids, _, _ in samples], 380),
        "labels": stack([labels for _, labels, _ in samples], -100),
        "attention_mask": stack([[1] * len(ids) for ids, _, _ in samples], 0),
    }


def packed(samples, spare: int) -> dict[str, torch.Tensor]:
    """All samples in one row, with some padding after them."""
    numbers = [n for n, (ids, _, _) in enumerate(samples, 1) for _ in ids]
    return {
        "input_ids": torch.tensor([sum((ids for ids, _, _ in samples), []) + [380] * spare]),
        "labels": torch.tensor([sum((labels for _, labels, _ in samples), []) + [-100] * spare]),
        "attention_mask": torch.tensor([numbers + [0] * spare]),
    }


@settings(max_examples=8, deadline=None, derandomize=True)
@given(batch=BATCHES, spare=st.integers(0, 7))
def test_packing_changes_neither_losses_nor_gradients(model, processor, folder, batch, spare):
    samples = [spell(sample, processor, folder) for sample in batch]
    entries = sum((audios for _, _, audios in samples), [])
    first, expected = step(model, padded(samples), entries, processor)
    again = samples[::-1]  # packed in the other order
    entries = sum((audios for _, _, audios in again), [])
    second, gradients = step(model, packed(again, spare), entries, processor)
    for name in ("loss", "text_loss", "speech_loss"):
        one, two = getattr(first, name), getattr(second, name)
        assert (one is None) == (two is None)
        if one is not None:
            assert two.item() == pytest.approx(one.item(), rel=2e-5, abs=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        limit = 2e-4 * max(gradient.abs().max().item(), 1e-3)
        torch.testing.assert_close(gradients[name], gradient, atol=limit, rtol=0)


@pytest.mark.parametrize(
    ("seconds", "codes", "transcript", "text"),
    [(0.0, 0, "", "warm"), (0.5, 0, "", "warm"), (0.0, 12, "", "warm"), (0.5, 12, "", "")],
    ids=["no audio", "user audio only", "assistant audio only", "no transcripts"],
)
def test_every_kind_of_batch_trains(model, processor, folder, seconds, codes, transcript, text):
    samples = [spell(Sample(seconds, codes, transcript, text), processor, folder)] * 2
    entries = sum((audios for _, _, audios in samples), [])
    output, gradients = step(model, padded(samples), entries, processor)
    assert torch.isfinite(output.loss) and all(g.isfinite().all() for g in gradients.values())
    assert any(name.startswith("language_model.") and g.any() for name, g in gradients.items())
    heard = any(g.any() for name, g in gradients.items() if name.startswith("continuous_audio"))
    spoken = any(g.any() for name, g in gradients.items() if name.startswith("audio_invert"))
    assert (heard, spoken) == (seconds > 0, codes > 0)
