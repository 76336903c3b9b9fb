# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The comparison with vLLM tells rounding from a difference, and finds questions. Needs no vLLM."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from funaudiochat.voice_chat import VoiceChat
from tests.helpers.golden import TINY_A
from tests.serving.compare import compare, find_audio, own_answers, read_audio, scores_along


@pytest.fixture(scope="module")
def chat():
    return VoiceChat.from_pretrained(TINY_A, device="cpu")


@pytest.fixture(scope="module")
def waveforms():
    generator = np.random.default_rng(0)
    return [generator.normal(0, 0.1, size).astype(np.float32) for size in (8000, 20000)]


@pytest.fixture(scope="module")
def ours(chat, waveforms):
    return own_answers(chat, waveforms, max_tokens=6)


def as_vllm(chat, waveform, answer):
    """The answer with what vLLM would tell of it: each position's best two."""
    best = scores_along(chat, waveform, answer.ids).topk(2)
    top = tuple(
        dict(zip(ids.tolist(), values.tolist(), strict=True))
        for ids, values in zip(best.indices, best.values, strict=True)
    )
    return replace(answer, top=top)


def test_equal_answers_have_no_differences(chat, waveforms, ours):
    theirs = [as_vllm(chat, waveform, own) for waveform, own in zip(waveforms, ours, strict=True)]
    found = compare(chat, waveforms, ours, theirs)
    assert (found.answers, found.prompts, found.differences) == (2, 2, [])
    assert found.noise < 1e-6 and min(found.margins) > 0
    assert "2 of 2 answers equal token for token (12 tokens)" in str(found)


@pytest.mark.parametrize(("nudge", "rounding"), [(1e-5, True), (1.0, False)])
def test_a_swap_is_rounding_only_if_both_sides_hardly_care(chat, waveforms, ours, nudge, rounding):
    """A wrong answer from the third token on, which vLLM prefers by `nudge`."""
    waveform, own = waveforms[0], ours[0]
    other = (own.ids[2] + 1) % 100
    theirs = as_vllm(chat, waveform, replace(own, ids=[*own.ids[:2], other, *own.ids[3:]]))
    top = list(theirs.top)
    top[2] = {own.ids[2]: -1.0, other: -1.0 + nudge}
    (difference,) = compare(chat, [waveform], [own], [replace(theirs, top=tuple(top))]).differences
    assert (difference.position, difference.own, difference.theirs) == (2, own.ids[2], other)
    assert difference.their_gap == pytest.approx(nudge)
    assert difference.own_gap > 1e-3 and not difference.is_rounding
    assert replace(difference, own_gap=1e-5).is_rounding is rounding


def test_an_answer_that_stops_early_is_never_rounding(chat, waveforms, ours):
    short = as_vllm(chat, waveforms[0], replace(ours[0], ids=ours[0].ids[:3]))
    (difference,) = compare(chat, waveforms[:1], ours[:1], [short]).differences
    assert (difference.position, difference.theirs, difference.is_rounding) == (3, None, False)


def test_questions_are_files_folders_and_dialogues(tmp_path):
    paths = [tmp_path / "questions" / name for name in ("a.flac", "b.flac", "c.wav")]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths, 1):
        soundfile.write(path, np.full(800 * number, 0.1), 8000)
    (tmp_path / "dialogues").mkdir()
    file = tmp_path / "dialogues" / "test.jsonl"
    asked = [{"audio": "questions/b.flac"}, {"text": "typed"}, {"audio": "questions/a.flac"}]
    file.write_text("".join(json.dumps({"messages": [message]}) + "\n" for message in asked))
    assert find_audio([file]) == [paths[1], paths[0]]
    assert find_audio([paths[2], paths[0].parent]) == [paths[2], *paths]
    (waveform,) = read_audio([file], 1)
    assert waveform.dtype == np.float32 and len(waveform) == 3200  # at 16 kHz
