# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The vocoder's parts equal recorded results."""

import pytest
import torch
from safetensors.torch import load_file

from funaudiochat.cosyvoice3.checkpoint import fold_weight_norm
from funaudiochat.cosyvoice3.config import HiftConfig
from funaudiochat.cosyvoice3.hift import Hift
from tests.helpers.cosyvoice3_folders import GOLDEN, close

TINY = HiftConfig(base_channels=32, f0_channels=32)


@pytest.fixture(scope="module")
def data():
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="module")
def hift():
    model = Hift(TINY)
    model.load_state_dict(fold_weight_norm(load_file(GOLDEN / "hift_tiny.safetensors")))
    return model.eval().requires_grad_(False)


def test_f0_equals_recorded(hift, data):
    close(hift.f0_predictor(data["hift.mel"]), data["hift.f0.final"], 1e-3)
    close(hift.f0_predictor(data["hift.mel"], final=False), data["hift.f0.notfinal"], 1e-3)
    double = hift.f0_predictor.double()(data["hift.mel"].double())
    hift.f0_predictor.float()
    close(double.float(), data["hift.f0.final_fp64"].float(), 1e-3)


def test_source_equals_recorded_at_silence_and_threshold(hift, data):
    f0 = data["hift.source.f0"]
    assert {0.0, 10.0, 10.5} <= set(f0[0].tolist())
    noise = data["hift.sine_noise"][:, : f0.shape[1] * 480]
    waveforms = []
    handle = hift.m_source.l_linear.register_forward_pre_hook(
        lambda _, args: waveforms.append(args[0])
    )
    source, _ = hift.source(f0, noise)
    handle.remove()
    close(source[0, 0], data["hift.source.out"][0, :, 0], 1e-5)
    close(waveforms[0], data["hift.source.sine9"], 1e-5)
    voiced = (f0 > hift.config.voiced_threshold_hz).float()
    assert torch.equal(voiced[..., None], data["hift.source.uv_frames"])


def test_source_in_pieces_equals_source_at_once(hift, data):
    f0, noise = data["hift.source.f0"], data["hift.sine_noise"]
    whole, _ = hift.source(f0, noise[:, : f0.shape[1] * 480])
    phase_cycles, parts = None, []
    for start in range(0, f0.shape[1], 7):
        piece = f0[:, start : start + 7]
        rows = noise[:, start * 480 : (start + piece.shape[1]) * 480]
        part, phase_cycles = hift.source(piece, rows, phase_cycles)
        parts.append(part)
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_a_sample_accurate_source_is_continuous_also_in_pieces():
    config = HiftConfig(base_channels=32, f0_channels=32, sample_accurate_source=True)
    model = Hift(config).requires_grad_(False)
    f0 = torch.linspace(100, 220, 40)[None]
    noise = torch.zeros(1, 40 * 480, 9)
    whole, _ = model.source(f0, noise)
    head, phase_cycles = model.source(f0[:, :13], noise[:, : 13 * 480])
    tail, _ = model.source(f0[:, 13:], noise[:, 13 * 480 :], phase_cycles)
    close(torch.cat([head, tail], dim=2), whole, 1e-5)
    # The highest harmonic moves by less than 0.1 * 2 pi * 9 * 220 / 24000 from sample to sample.
    steepest = model.m_source.l_linear.weight.abs().sum() * 0.1 * 2 * torch.pi * 9 * 220 / 24000
    assert float(whole.diff(dim=2).abs().max()) <= float(steepest)


def test_decoder_equals_recorded(hift, data):
    mel, source = data["hift.decode.mel"], data["hift.decode.s"]
    close(hift.decode(mel, source), data["hift.decode.final.wav"], 5e-5)
    waiting = hift.decode(mel, source, final=False)[:, : data["hift.decode.notfinal.wav"].shape[1]]
    close(waiting, data["hift.decode.notfinal.wav"], 5e-5)


def test_layers_of_the_decoder_equal_recorded(hift, data):
    parts = {
        "conv_pre": hift.conv_pre,
        "ups0": hift.ups[0],
        "source_down0": hift.source_downs[0],
        "source_res0": hift.source_resblocks[0],
        "resblock0": hift.resblocks[0],
        "conv_post": hift.conv_post,
    }
    found, handles = {}, []
    for name, module in parts.items():
        handles.append(
            module.register_forward_hook(
                lambda _, args, output, name=name: found.update({name: output})
            )
        )
    hift.decode(data["hift.decode.mel"], data["hift.decode.s"])
    for handle in handles:
        handle.remove()
    for name in parts:
        close(found[name], data[f"hift.decode.{name}.final"], 5e-5)


def test_a_whole_mel_that_waits_for_more_gives_the_recorded_audio(hift, data):
    mel, f0 = data["hift.mel"], data["hift.f0.notfinal"]
    noise = data["hift.sine_noise"][:, : f0.shape[1] * 480]
    close(hift(mel, f0, noise, final=False), data["hift.infer.notfinal.wav"], 5e-4)


def test_decoder_on_40_frames_equals_recorded(hift, data):
    waveform = hift.decode(data["hift.mel"], data["hift.infer.final.source"])
    close(waveform, data["hift.infer.final.wav"], 5e-4)


def test_context_is_the_measured_29_frames_at_official_sizes():
    assert HiftConfig().context_frames == 29
    assert HiftConfig().lookahead_frames == 8
    assert HiftConfig().frame_samples == 480


@pytest.mark.parametrize("final", [True, False])
def test_leading_context_changes_nothing_but_where_the_audio_begins(hift, data, final):
    mel, source = data["hift.mel"], data["hift.infer.final.source"]
    whole = hift.decode(mel, source, final)
    context = hift.config.context_frames
    assert mel.shape[2] > context + 5
    for first in (0, 3, context, mel.shape[2] - 5):
        left = max(0, first - context)
        part = hift.decode(mel[:, :, left:], source[:, :, left * 480 :], final, first - left)
        close(part, whole[:, first * 480 :], 5e-5)
