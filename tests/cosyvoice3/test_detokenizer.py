# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speech tokens to waveform: recorded results, exact lengths, streaming, noise tables."""

import hashlib
import json
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from funaudiochat.cosyvoice3.config import ChunkSchedule, FlowConfig, HiftConfig
from funaudiochat.cosyvoice3.detokenizer import (
    CosyVoice3Detokenizer,
    UniformRows,
    draw_noise,
)
from funaudiochat.cosyvoice3.flow import Flow
from funaudiochat.cosyvoice3.hift import Hift
from funaudiochat.cosyvoice3.segments import segment_bounds
from funaudiochat.errors import VoiceError
from tests.helpers.cosyvoice3_folders import (
    CASES,
    GOLDEN,
    RECORDED_MASK,
    build_cosyvoice3_folder,
    close,
)
from utils.cosyvoice_detokenizer import get_audio_detokenizer, token2wav, tts_infer_streaming

SCHEDULES = [RECORDED_MASK, ChunkSchedule(), ChunkSchedule(1, 1.5, 9, 12)]


@pytest.fixture(scope="module")
def data():
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="module")
def detokenizer(tmp_path_factory):
    return CosyVoice3Detokenizer.from_pretrained(
        build_cosyvoice3_folder(tmp_path_factory.mktemp("tts"))
    )


@pytest.fixture(scope="module")
def speaker(data):
    return data["flow.embedding"]


class RecordedRows:
    """The recorded table in place of the drawn one."""

    def __init__(self, table):
        self.table, self.row = table, 0

    def take(self, count):
        self.row += count
        return self.table[self.row - count : self.row]


class RecordedF0(torch.nn.Module):
    """Plays the recorded F0 of one call: the predicted one differs by float noise, which the
    phase integral amplifies."""

    def __init__(self, f0):
        super().__init__()
        self.f0 = f0
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, mel, final=True):
        return self.f0[:, -(mel.shape[2] - (0 if final else 3)) :]


@contextmanager
def f0_from(hift, predictor):
    original, hift.f0_predictor = hift.f0_predictor, predictor
    try:
        yield
    finally:
        hift.f0_predictor = original


def snr_db(actual, expected):
    return 10 * torch.log10(expected.pow(2).sum() / (actual - expected).pow(2).sum())


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("t2w.")])
def test_sequences_of_calls_equal_recorded(detokenizer, data, speaker, name):
    case = CASES[name]
    prompt = {}
    if case["prompt"]:
        prompt = {
            "prompt_tokens": data["flow.prompt_token"],
            "prompt_mel": data["flow.prompt_feat"],
        }
    for given_f0 in (True, False):
        state = detokenizer.vocoder_state()
        state.rows = RecordedRows(data["hift.sine_noise"][0])
        for index, call in enumerate(case["calls"]):
            mel = detokenizer.flow.one_shot(
                data["flow.tokens"][:, : call["n"]],
                speaker,
                data["cfm.noise"],
                schedule=RECORDED_MASK if case["stream"] else None,
                final=call["finalize"],
                **prompt,
            )[:, :, 2 * call["offset"] :]
            predictor = detokenizer.hift.f0_predictor
            if given_f0:
                predictor = RecordedF0(data[f"{name}.f0_{index}"])
            with f0_from(detokenizer.hift, predictor):
                waveform = detokenizer.vocode(state, mel, call["finalize"])
            expected = data[f"{name}.chunk{index}"][0]
            assert len(waveform) == call["samples"] == len(expected)
            if given_f0:
                close(waveform, expected, 5e-4)
            else:
                assert snr_db(waveform, expected) >= 25


def test_speed_gives_the_recorded_audio(detokenizer, data, speaker, monkeypatch):
    monkeypatch.setattr(detokenizer, "_noise", data["cfm.noise"])
    monkeypatch.setattr(
        "funaudiochat.cosyvoice3.detokenizer.UniformRows",
        lambda *_: RecordedRows(data["hift.sine_noise"][0]),
    )
    waveform = detokenizer.decode(data["flow.tokens"][0, :20], speaker, speed=1.25)
    expected = data["t2w.speed1p25.wav"][0]
    assert len(waveform) == len(expected) and snr_db(waveform, expected) >= 25
    with pytest.raises(ValueError, match="speed"):
        detokenizer.decode([1], speaker, speed=0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_the_shortest_replies_are_whole_at_once(detokenizer, speaker, count):
    waveform = detokenizer.decode(range(count), speaker)
    assert len(waveform) == 960 * count and bool(waveform.isfinite().all())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", [1, 2, 4, 10, 41, 80])
def test_streaming_equals_one_shot_under_the_same_mask(detokenizer, data, speaker, schedule, count):
    codes = data["flow.tokens"][0, :count].tolist()
    # A fixed F0: float noise of the mel would otherwise be amplified by the phase integral.
    with f0_from(detokenizer.hift, SteadyF0()):
        whole = detokenizer.decode(codes, speaker, schedule=schedule)
        for size in (1, 5, count):
            stream = detokenizer.stream(speaker, schedule)
            parts = [stream.push(codes[i : i + size]) for i in range(0, count, size)]
            close(torch.cat([*parts, stream.finish()]), whole, 5e-4)
    assert len(whole) == 960 * count


class SteadyF0(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, mel, final=True):
        return torch.full((1, mel.shape[2] - (0 if final else 3)), 120.0)


@settings(max_examples=25, deadline=None)
@given(
    pushes=st.lists(st.integers(0, 12), max_size=12),
    first=st.integers(1, 9),
    growth=st.floats(1, 3),
    limit=st.one_of(st.none(), st.integers(0, 30)),
)
def test_every_token_becomes_960_samples(detokenizer, speaker, pushes, first, growth, limit):
    stream = detokenizer.stream(speaker, ChunkSchedule(first, growth, 12, limit))
    samples = sum(len(stream.push(range(n))) for n in pushes) + len(stream.finish())
    assert samples == 960 * sum(pushes)


@pytest.mark.parametrize("count", [749, 750, 751, 799, 800, 1500, 1501, 3000])
def test_long_replies_are_cut_by_the_30_s_rule(count):
    bounds = segment_bounds(count, 25, 2)
    assert [a for a, _ in bounds[1:]] == [b for _, b in bounds[:-1]]
    assert bounds[0][0] == 0 and bounds[-1][1] == count
    assert len(bounds) == -(-count // 750)
    if count > 750:
        assert bounds[-1][1] - bounds[-1][0] >= 50
    if count == 751:
        assert bounds == [(0, 375), (375, 751)]


def test_a_reply_just_over_30_s_equals_its_halves_decoded_alone(detokenizer, speaker):
    codes = torch.arange(760) % 6561
    halves = [detokenizer.decode(part, speaker) for part in (codes[:380], codes[380:])]
    assert torch.equal(detokenizer.decode(codes, speaker), torch.cat(halves))


@pytest.mark.slow
def test_replies_of_two_minutes_lose_nothing(detokenizer, speaker):
    codes = torch.arange(3000) % 6561
    assert len(detokenizer.decode(codes, speaker)) == 960 * 3000
    stream = detokenizer.stream(speaker)
    pieces = [len(stream.push(codes[i : i + 5])) for i in range(0, 3000, 5)]
    assert sum(pieces) + len(stream.finish()) == 960 * 3000


def test_offline_sessions_give_the_one_shot_audio(detokenizer, data, speaker):
    codes = data["flow.tokens"][0, :30]
    stream = detokenizer.stream(speaker, schedule=None)
    assert len(stream.push(codes[:20])) == len(stream.push(codes[20:])) == 0
    assert torch.equal(stream.finish(), detokenizer.decode(codes, speaker))
    assert len(detokenizer.stream(speaker, None).finish()) == 0


def test_the_known_names_leave_out_what_is_not_a_speech_token(detokenizer, data, speaker, tmp_path):
    codes = data["flow.tokens"][0, :12]
    groups = [torch.tensor([6561] * 5), codes[:5], codes[5:10], [*codes[10:].tolist(), 6562, -1]]
    mixed = torch.cat([torch.as_tensor(group) for group in groups])
    waveform = token2wav(detokenizer, mixed, speaker)
    assert torch.equal(waveform, detokenizer.decode(codes, speaker)[None])
    stream = detokenizer.stream(speaker)
    expected = torch.cat([stream.push(codes), stream.finish()])
    close(torch.cat([*tts_infer_streaming(detokenizer, groups, speaker)], dim=1)[0], expected, 5e-4)
    folder = build_cosyvoice3_folder(tmp_path / "tts")
    assert torch.equal(
        get_audio_detokenizer(folder).decode([5, 6], speaker), detokenizer.decode([5, 6], speaker)
    )


def test_two_replies_interleaved_do_not_mix(detokenizer, data, speaker):
    codes, other = data["flow.tokens"][0, :40], data["flow.tokens"][0, 40:80]
    alone = detokenizer.stream(speaker)
    expected = torch.cat([alone.push(codes), alone.finish()])
    first, second = detokenizer.stream(speaker), detokenizer.stream(speaker * -1)
    parts = []
    for start in range(0, 40, 5):
        parts.append(first.push(codes[start : start + 5]))
        second.push(other[start : start + 5])
    assert torch.equal(torch.cat([*parts, first.finish()]), expected)


def test_state_of_a_long_reply_does_not_grow(detokenizer, speaker):
    stream, sizes = detokenizer.stream(speaker), []
    for _ in range(40):
        stream.push(range(25))
        vocoder, flow = stream.state.vocoder, stream.state.flow
        tensors = [vocoder.mel, vocoder.source, flow.cache.keys_values, flow.cache.conv_inputs]
        sizes.append(sum(t.untyped_storage().nbytes() for t in tensors))
    assert max(sizes[10:]) == min(sizes[10:])


def test_no_chunk_comes_after_the_one_before_was_played(detokenizer, speaker):
    """By a virtual clock: 40 ms a step of five tokens, and 25 ms for every 14 frames."""
    stream, now_s, plays_until_s, gaps = detokenizer.stream(speaker), 0.0, None, []
    for _ in range(40):
        now_s += 0.04
        before = stream.state.flow.frames
        waveform = stream.push(range(5))
        if not len(waveform):
            continue
        now_s += 0.025 * (stream.state.flow.frames - before) / 14
        if plays_until_s is None:
            assert stream.state.flow.frames == 14  # of the first two groups
            plays_until_s = now_s
        gaps.append(max(0.0, now_s - plays_until_s))
        plays_until_s = max(now_s, plays_until_s) + len(waveform) / 24000
    assert len(gaps) > 4 and not any(gaps)


@pytest.mark.parametrize("code", [-1, 6561])
def test_tokens_outside_the_vocabulary_are_refused(detokenizer, speaker, code):
    with pytest.raises(ValueError, match=f"speech token {code} is outside 0..6560"):
        detokenizer.stream(speaker).push([3, code])


@pytest.mark.parametrize("bad", [torch.zeros(192), torch.ones(191), torch.full((192,), torch.nan)])
def test_useless_speaker_vectors_are_refused(detokenizer, bad):
    with pytest.raises(VoiceError, match="voices add"):
        detokenizer.decode([1], bad)


def test_a_finished_reply_takes_no_more_tokens(detokenizer, speaker):
    stream = detokenizer.stream(speaker)
    stream.finish()
    with pytest.raises(RuntimeError, match="finished"):
        stream.push([1])


def test_noise_equals_the_official_tables_and_leaves_the_global_state_alone():
    recipe = json.loads((GOLDEN / "noise_recipe.json").read_text())
    # Official vocoder sizes; the flow's depth has no influence on what is drawn.
    flow, hift = Flow(FlowConfig(dim=16, depth=1, heads=1, dim_head=16)), Hift(HiftConfig())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    noise, state = draw_noise(flow, hift)
    rows = UniformRows(state, 9)
    table = torch.cat([rows.take(1000), rows.take(239000)])
    assert torch.equal(torch.get_rng_state(), before)
    digest = hashlib.sha256(noise.numpy().tobytes()).hexdigest()
    assert digest == recipe["rand_noise_sha256"]
    digest = hashlib.sha256(table.numpy().tobytes()).hexdigest()
    assert digest == recipe["sine_waves_first_240000_rows_sha256"]
