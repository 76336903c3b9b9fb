# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speech tokens of an answer are cut or filled to whole groups."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.speech_tokens import whole_groups

SILENCE = 9


def encode(waveform: np.ndarray) -> list[int]:
    """A tokenizer that gives 1 where anything is heard and 9 in silence."""
    tokens = [waveform[n : n + 640] for n in range(0, len(waveform), 640)]
    return [1 if np.abs(token).max() > 0.01 else SILENCE for token in tokens]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    heard=st.integers(1, 60), silent=st.integers(0, 12), samples=st.integers(0, 639),
    noise=st.sampled_from([0.0, 1e-3]), delay=st.sampled_from([0, 7, 10]),
)  # fmt: skip
def test_no_group_is_partial_and_nothing_heard_is_lost(heard, silent, samples, noise, delay):
    rng = np.random.default_rng(heard)
    speech = 0.5 * np.sin(np.arange(640 * heard) / 5)
    tail = noise * rng.standard_normal(640 * silent + (samples if silent else 0)).clip(-2, 2)
    waveform = np.concatenate([speech, tail]).astype(np.float32)
    tokens = encode(waveform)
    whole = whole_groups(tokens, waveform, encode, delay)
    assert (delay + len(whole)) % 5 == 0 and -5 < len(whole) - len(tokens) < 5
    common = min(len(whole), len(tokens))
    assert whole[:common] == tokens[:common]
    assert all(token == SILENCE for token in (whole + tokens)[common : len(whole)])
    assert whole.count(1) == heard
    kept = len(tokens) - (delay + len(tokens)) % 5
    assert len(whole) == kept or (delay + len(tokens)) % 5 and (kept < heard or kept <= 0)


def test_the_tokens_of_nano_rows_are_whole_groups(tmp_path):
    from funaudiochat.audio import save_wav
    from funaudiochat.cosyvoice3.speech_tokenizer import FILE_NAME
    from funaudiochat.hub import ROOT
    from training.nano.encode import encode_answer, open_tokenizer

    save_wav(tmp_path / "a.wav", 0.1 * np.sin(np.arange(26_400) / 5), 24000)  # 27.5 tokens
    file = ROOT / "pretrained_models" / "Fun-CosyVoice3-Nano" / FILE_NAME
    made = encode_answer(open_tokenizer(file), tmp_path / "a.wav")
    codes, row_codes = made["codes"], made["row_codes"]
    assert len(codes) in (27, 28) and len(row_codes) == 30 and row_codes[: len(codes)] == codes
