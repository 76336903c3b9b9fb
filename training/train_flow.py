# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Teach the flow of a detokenizer a new voice, by its own loss (conditional flow matching).

The folder that is written holds the new voice under its name, and everything else that the
detokenizer's folder holds to be used.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from funaudiochat.audio import load_audio
from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ, TOKEN_FPS
from funaudiochat.cosyvoice3 import checkpoint, speech_tokenizer
from funaudiochat.cosyvoice3.config import FlowConfig
from funaudiochat.cosyvoice3.flow import Flow
from funaudiochat.cosyvoice3.settings import read_settings
from funaudiochat.cosyvoice3.voices import (
    CAMPPLUS_NAME,
    SPEAKER_DIM,
    VOICES_NAME,
    load_voices,
    speaker_vector,
)
from funaudiochat.errors import FunAudioChatError
from training.jsonl import read_lines
from training.nano.answers import normalize_mel
from training.nano.features import vocoder_mel
from training.speech_tokens import SPELLED_TOKEN

logger = logging.getLogger(__name__)

_TOKEN_SAMPLES = OUTPUT_RATE_HZ // TOKEN_FPS
_BATCH_TOKENS = 600
_HELD_OUT_EVERY, _MOST_HELD_OUT = 20, 10
_PROMPTS = 20  # recordings whose speaker vectors are averaged
_LOG_EVERY = 50


@dataclass(frozen=True)
class Recording:
    """A recording of the new voice.

    Attributes:
        tokens: speech tokens [T].
        mel: [2T, 80], as the flow makes it.
    """

    tokens: Tensor
    mel: Tensor


def read_rows(rows: Path) -> list[tuple[Path, list[int]]]:
    """Return audio files and speech tokens of the spoken answers of training rows.

    Raises:
        FunAudioChatError: the file or a row cannot be read, or none has a recorded answer.
    """
    found = []
    for number, line in enumerate(read_lines(rows), 1):
        try:
            entries = [json.loads(entry) for entry in json.loads(line)["audio"]]
            spoken = [(e.get("path"), SPELLED_TOKEN.findall(e.get("token") or "")) for e in entries]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FunAudioChatError(
                f"{rows}, row {number} is damaged ({error!r}); make it with data_process.py"
            ) from error
        found += [(Path(path), [int(t) for t in tokens]) for path, tokens in spoken if path]
    found = [(path, tokens) for path, tokens in found if tokens]
    if len(found) < 2:
        raise FunAudioChatError(f"{rows} holds {len(found)} spoken answers with a path; two needed")
    return found


def _log_mel(path: Path, tokens: int) -> Tensor:
    """Return the log-mel [2T, 80] of a recording, cut or followed by silence to T tokens."""
    waveform = torch.from_numpy(load_audio(path, OUTPUT_RATE_HZ))
    samples = tokens * _TOKEN_SAMPLES
    waveform = nn.functional.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]
    return vocoder_mel(waveform[None])[0].T


def _is_normalized(flow: Flow, recording: tuple[Tensor, Tensor], speaker: Tensor) -> bool:
    """Tell whether the flow makes normalised mel, as Nano's does, or plain log-mel.

    The folder does not say; what it makes of a recording's tokens does.

    Args:
        flow: the flow.
        recording: tokens [T] and log-mel [2T, 80].
        speaker: one of its voices.
    """
    tokens, mel = recording
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, mel.shape[1], len(mel), generator=generator)
    with torch.no_grad():
        made = flow.one_shot(tokens[None], speaker[None], noise)[0].T
    return bool((made.mean() - normalize_mel(mel).mean()).abs() < (made.mean() - mel.mean()).abs())


def new_speaker(tts_path: Path, voices: dict[str, Tensor], prompts: list[Path]) -> Tensor:
    """Return a speaker vector [192] for a voice.

    It is the mean of the recordings' vectors if the folder has a network for them. Otherwise it is
    a unit vector that stands at a right angle to the folder's voices, and training gives it a
    meaning.
    """
    network = tts_path / CAMPPLUS_NAME
    if network.is_file():
        vectors = [speaker_vector(load_audio(path, INPUT_RATE_HZ), network) for path in prompts]
        return torch.stack(vectors).mean(0)
    generator = torch.Generator().manual_seed(len(voices))
    known = torch.stack(list(voices.values())) if voices else torch.zeros(0, SPEAKER_DIM)
    basis = torch.cat([known, torch.randn(1, SPEAKER_DIM, generator=generator)])
    return torch.linalg.qr(basis.T).Q[:, -1].clone()


def _batch(recordings: list[Recording]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad recordings on the right: tokens [B, T], mel [B, 2T, 80], counts [B]."""
    return (
        nn.utils.rnn.pad_sequence([r.tokens for r in recordings], batch_first=True),
        nn.utils.rnn.pad_sequence([r.mel for r in recordings], batch_first=True),
        torch.tensor([len(r.tokens) for r in recordings]),
    )


def _draw(recordings: list[Recording], rng: Random) -> list[Recording]:
    """Draw recordings of about ``_BATCH_TOKENS`` speech tokens."""
    drawn = [rng.choice(recordings)]
    while sum(len(r.tokens) for r in drawn) < _BATCH_TOKENS:
        drawn.append(rng.choice(recordings))
    return drawn


@torch.no_grad()
def mel_error(flow: Flow, recordings: list[Recording], speaker: Tensor) -> float:
    """Return the mean absolute error of the mel that the flow makes of recordings' tokens."""
    errors = []
    generator = torch.Generator().manual_seed(0)
    for recording in recordings:
        frames, bins = recording.mel.shape
        noise = torch.randn(1, bins, frames, generator=generator).to(recording.mel.device)
        made = flow.one_shot(recording.tokens[None], speaker[None], noise)[0].T
        errors.append(float((made - recording.mel).abs().mean()))
    return sum(errors) / len(errors)


def train_flow(
    rows: Path,
    tts_path: Path,
    voice: str,
    out: Path,
    steps: int = 600,
    rate: float = 3e-4,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Train the flow on recordings and write a detokenizer's folder with the new voice.

    Args:
        rows: training rows with recorded answers, as data_process.py makes them.
        tts_path: folder of the detokenizer to start from.
        voice: name of the new voice; one of that name is replaced.
        out: folder to write.
        steps: updates of about 600 speech tokens each.
        rate: peak learning rate, which falls to zero.
        seed: of batches and noise.
        device: where to train.

    Returns:
        Mean absolute mel error on every twentieth recording, which is not trained on, ``before``
        and ``after``.

    Raises:
        FunAudioChatError: rows, recordings or the folder cannot be used, or ``out`` is the folder.
    """
    if out.resolve() == tts_path.resolve():
        raise FunAudioChatError(f"{out} would be written over; give another --out")
    found = read_rows(rows)
    flow_config, hift_config = read_settings(tts_path)
    flow = checkpoint.load_flow(tts_path, flow_config)
    _check_tokens(rows, found, flow_config)
    own = tts_path / VOICES_NAME
    voices = load_voices(own) if own.is_file() else {}
    speaker = new_speaker(tts_path, voices, [path for path, _ in found[:_PROMPTS]])
    pairs = [(torch.tensor(tokens), _log_mel(path, len(tokens))) for path, tokens in found]
    if _is_normalized(flow, pairs[0], next(iter(voices.values()), speaker)):
        pairs = [(tokens, normalize_mel(mel)) for tokens, mel in pairs]
    recordings = [Recording(tokens.to(device), mel.to(device)) for tokens, mel in pairs]
    held_out = recordings[1::_HELD_OUT_EVERY][:_MOST_HELD_OUT]
    kept = {id(recording) for recording in held_out}
    training = [recording for recording in recordings if id(recording) not in kept]
    flow, at = flow.to(device), speaker.to(device)
    errors = {"before": mel_error(flow, held_out, at)}
    losses = _update(flow.requires_grad_(True).train(), training, at, steps, rate, seed)
    flow = flow.eval().requires_grad_(False)
    errors["after"] = mel_error(flow, held_out, at)
    _write(out, tts_path, flow.cpu(), hift_config, {**voices, voice: speaker})
    (out / "flow_losses.json").write_text(json.dumps({"losses": losses, "mel_error": errors}))
    return errors


def _check_tokens(rows: Path, found: list[tuple[Path, list[int]]], config: FlowConfig) -> None:
    largest = max(max(tokens) for _, tokens in found)
    if largest >= config.vocab_size:
        raise FunAudioChatError(
            f"{rows} has the speech token {largest}, and the flow knows {config.vocab_size}; make "
            "the rows with the tokenizer of the same folder"
        )


def _update(
    flow: Flow, recordings: list[Recording], speaker: Tensor, steps: int, rate: float, seed: int
) -> list[float]:
    """Train all weights of the flow; return the mean losses of every 50 steps."""
    rng = Random(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(flow.parameters(), rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    losses: list[float] = []
    recent: list[float] = []
    for step in range(1, steps + 1):
        tokens, mel, counts = _batch(_draw(recordings, rng))
        speakers = speaker.expand(len(tokens), -1)
        loss = flow.loss(tokens, mel, speakers, counts.to(mel.device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if step % _LOG_EVERY == 0 or step == steps:
            losses.append(sum(recent) / len(recent))
            logger.info("step %d of %d: loss %.4f", step, steps, losses[-1])
            recent = []
    return losses


def _write(
    out: Path, tts_path: Path, flow: Flow, hift_config: Any, voices: dict[str, Tensor]
) -> None:
    """Write the folder: the new flow and voices, and the other files as they are."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out, flow.half(), checkpoint.load_hift(tts_path, hift_config))
    shutil.copyfile(tts_path / "hift.pt", out / "hift.pt")  # in the precision it is stored in
    save_file(voices, out / VOICES_NAME)
    for name in (speech_tokenizer.FILE_NAME, CAMPPLUS_NAME):
        if (tts_path / name).is_file():
            shutil.copyfile(tts_path / name, out / name)
