# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the speech tokenizer: phones and spectrogram must be readable from the codes alone.

    python -m training.nano.train_tokenizer            # resumes from its last checkpoint
    python -m training.nano.train_tokenizer --steps 500 --work /tmp/try

Two branches that are not shipped read the eight quantized digits: one predicts phones (CTC), the
other the mel spectrogram, given the voice. Writes ``tokenizer.pt`` (checkpoint) and
``tokenizer_curve.json`` (losses; phone error rates on held-out answers, wordings and voices) below
``--work``, and the ONNX file to ``--output`` at the end.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.nano.checkpoint import restore, save
from training.nano.data import WORK, read_jsonl
from training.nano.features import WHISPER_HZ, WHISPER_MELS, FrameStore, read_wave, whisper_mel
from training.nano.tokenizer import (
    DIGITS,
    Block,
    SpeechTokenizer,
    TokenizerConfig,
    code_length,
    codes_of,
    export_onnx,
)

log = logging.getLogger(__name__)

OUTPUT = Path("pretrained_models/Fun-CosyVoice3-Nano/speech_tokenizer_v3.onnx")
QUESTION_SPLITS = ("train", "valid_paraphrase", "test_paraphrase", "test_voice")
RECONSTRUCTION_WEIGHT = 1.0
BATCH_MEL_FRAMES = 3000
PEAK_RATE, WARM_UP_STEPS = 1.5e-3, 200
SAVE_EVERY, EVALUATE_EVERY = 500, 1000
EVALUATED = 100  # utterances of each held-out set


@dataclass
class Utterance:
    """One recording: where its features are, what is said, by whom, and its set."""

    store: FrameStore
    index: int
    text: str
    phones: str
    voice: str
    group: str

    @property
    def frames(self) -> int:
        """Length in mel frames."""
        return int(self.store.lengths[self.index])


class TokenizerTrainer(nn.Module):
    """The tokenizer with its two reading branches.

    Args:
        config: sizes of the tokenizer.
        phones: number of phone symbols; CTC's blank is added.
        voices: number of training voices.
    """

    def __init__(self, config: TokenizerConfig, phones: int, voices: int) -> None:
        super().__init__()
        self.tokenizer = SpeechTokenizer(config)
        self.mels = config.mels
        self.phone_in = nn.Linear(DIGITS, config.width)
        self.phone_block = Block(config.width)
        self.phone_out = nn.Linear(config.width, phones + 1)
        self.mel_in = nn.Linear(DIGITS, config.width)
        self.voice = nn.Embedding(voices, config.width)
        self.mel_blocks = nn.ModuleList(Block(config.width) for _ in range(2))
        self.mel_out = nn.Linear(config.width, 4 * config.mels)

    def read_phones(self, digits: Tensor, valid: Tensor) -> Tensor:
        """Log-probabilities [B, T, phones + 1] of digits [B, T, 8], mask [B, T, 1]."""
        x = self.phone_block(self.phone_in(digits), valid)
        return self.phone_out(x).log_softmax(-1)

    def read_mel(self, digits: Tensor, valid: Tensor, voice: Tensor) -> Tensor:
        """Spectrogram [B, mels, 4T] of digits [B, T, 8] in voices [B]."""
        x = self.mel_in(digits) + self.voice(voice)[:, None]
        for block in self.mel_blocks:
            x = block(x, valid)
        return self.mel_out(x).reshape(len(x), -1, self.mels).transpose(1, 2)

    def losses(
        self, mel: Tensor, lengths: Tensor, phones: Tensor, phone_lengths: Tensor, voice: Tensor
    ) -> tuple[Tensor, Tensor]:
        """CTC and reconstruction loss.

        Args:
            mel: [B, mels, M], zero beyond an item's length.
            lengths: [B] in mel frames.
            phones: all targets end to end, from 1 on; 0 is the blank.
            phone_lengths: [B].
            voice: [B] voice numbers.
        """
        noisy = mel + 0.02 * torch.randn_like(mel)
        digits, valid = self.tokenizer.digits(noisy, lengths)
        scores = self.read_phones(digits, valid).transpose(0, 1)
        ctc = F.ctc_loss(scores, phones, code_length(lengths), phone_lengths, zero_infinity=True)
        rebuilt = self.read_mel(digits, valid, voice)[..., : mel.shape[2]]
        inside = (torch.arange(mel.shape[2]) < lengths[:, None])[:, None].to(mel.dtype)
        error = ((rebuilt - mel).abs() * inside).sum() / (inside.sum() * self.mels)
        return ctc, error


def collect(work: Path) -> list[Utterance]:
    """All utterances of the manifests, with their features computed where missing."""
    utterances = []
    sources = {split: work / "dialogues" / f"{split}.jsonl" for split in QUESTION_SPLITS}
    for name, path in {"answers": work / "answers.jsonl", **sources}.items():
        records = read_jsonl(path)
        items = records
        if name != "answers":
            items = [m for r in records for m in r["messages"] if "audio" in m]
        store = FrameStore(work / "features" / f"whisper-{name}.f16", WHISPER_MELS)
        todo = items[len(store) :]
        log.info("%s: %d utterances, features of %d to make", name, len(items), len(todo))
        store.extend(whisper_mel(read_wave(work / i["audio"], WHISPER_HZ)).T for i in todo)
        for index, item in enumerate(items):
            group = "train" if item.get("part") == "train" else name
            said = item["text"], item["phones"], item["voice"]
            utterances.append(Utterance(store, index, *said, group))
    return utterances


def collate(batch: list[Utterance], phone_ids: dict[str, int], voices: list[str]) -> list[Tensor]:
    """Tensors of ``TokenizerTrainer.losses``; a voice not in training counts as the first."""
    mel = nn.utils.rnn.pad_sequence([u.store[u.index] for u in batch], batch_first=True)
    targets = torch.tensor([phone_ids[p] for u in batch for p in u.phones])
    voice = [voices.index(u.voice) if u.voice in voices else 0 for u in batch]
    lengths = torch.tensor([u.frames for u in batch])
    phone_lengths = torch.tensor([len(u.phones) for u in batch])
    return [mel.transpose(1, 2), lengths, targets, phone_lengths, torch.tensor(voice)]


def batches(utterances: list[Utterance], epoch: int) -> Iterator[list[Utterance]]:
    """One epoch of batches of like length and bounded size, shuffled by the epoch's number."""
    rng = Random(epoch)
    ordered = sorted(utterances, key=lambda u: u.frames + rng.uniform(0, 20))
    found: list[list[Utterance]] = [[]]
    for utterance in ordered:
        if (len(found[-1]) + 1) * utterance.frames > BATCH_MEL_FRAMES and found[-1]:
            found.append([])
        found[-1].append(utterance)
    rng.shuffle(found)
    yield from found


@torch.no_grad()
def evaluate(
    model: TokenizerTrainer,
    utterances: list[Utterance],
    phone_ids: dict[str, int],
    voices: list[str],
) -> dict[str, dict[str, float]]:
    """Phone error rate, number of codes used and reconstruction error of the held-out sets."""
    model.eval()
    symbol = {i: p for p, i in phone_ids.items()}
    groups: dict[str, list[Utterance]] = {}
    for u in utterances:
        if u.group != "train":
            by_voice = u.group in ("answers", "test_voice")
            groups.setdefault(f"{u.group}/{u.voice}" if by_voice else u.group, []).append(u)
    result = {}
    for name, group in sorted(groups.items()):
        chosen = Random(0).sample(group, min(EVALUATED, len(group)))
        heard, used, error = [], set(), 0.0
        for u in chosen:
            mel, lengths, _, _, voice = collate([u], phone_ids, voices)
            digits, valid = model.tokenizer.digits(mel, lengths)
            best = model.read_phones(digits, valid)[0].argmax(-1)
            heard.append("".join(symbol[i] for i in best.unique_consecutive().tolist() if i))
            used.update(codes_of(digits)[0].tolist())
            rebuilt = model.read_mel(digits, valid, voice)[..., : mel.shape[2]]
            error += float((rebuilt - mel).abs().mean()) / len(chosen)
        result[name] = {
            "phone_error_percent": round(100 * jiwer.cer([u.phones for u in chosen], heard), 2),
            "codes_used": len(used),
            "reconstruction_l1": round(error, 4),
            "utterances": len(chosen),
        }
    model.train()
    return result


class Run:
    """A training run that can stop at any step and go on.

    Args:
        work: data and checkpoint folder.
        steps: length of the schedule; a resumed run keeps the one it was started with.
    """

    def __init__(self, work: Path, steps: int, config: TokenizerConfig) -> None:
        self.work, self.path = work, work / "tokenizer.pt"
        self.utterances = collect(work)
        self.train_set = [u for u in self.utterances if u.group == "train"]
        if not self.train_set:
            raise ValueError(
                f"no training speech in {work}; first run python -m training.nano.data"
            )
        self.voices = sorted({u.voice for u in self.train_set})
        symbols = sorted({p for u in self.train_set for p in u.phones})
        self.phone_ids = {p: i for i, p in enumerate(symbols, 1)}
        torch.manual_seed(0)
        self.model = TokenizerTrainer(config, len(symbols), len(self.voices))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), PEAK_RATE, weight_decay=0.01)
        self.state: dict[str, Any] = {
            "step": 0, "steps": steps, "epoch": 0, "batch": 0, "cpu_s": 0.0, "curve": []
        }  # fmt: skip
        self.state |= restore(self.path, self.model, self.optimizer)

    def train_step(self, batch: list[Utterance]) -> tuple[float, float]:
        """One update; returns CTC and reconstruction loss."""
        warm = min(1.0, (self.state["step"] + 1) / WARM_UP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * warm * max(0.02, 1 - self.state["step"] / self.state["steps"])
        ctc, error = self.model.losses(*collate(batch, self.phone_ids, self.voices))
        self.optimizer.zero_grad()
        (ctc + RECONSTRUCTION_WEIGHT * error).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return ctc.item(), error.item()

    def train(self) -> None:
        """Train to the end of the schedule."""
        state, steps = self.state, self.state["steps"]
        recent: list[tuple[float, float]] = []
        while state["step"] < steps:
            todo = list(batches(self.train_set, state["epoch"]))[state["batch"] :]
            for batch in todo[: steps - state["step"]]:
                started = time.process_time()
                recent.append(self.train_step(batch))
                state["step"], state["batch"] = state["step"] + 1, state["batch"] + 1
                state["cpu_s"] += time.process_time() - started
                last = state["step"] == steps
                if state["step"] % 100 == 0 or last:
                    ctc, error = (sum(x) / len(recent) for x in zip(*recent, strict=True))
                    self._note({"ctc": round(ctc, 4), "mel_l1": round(error, 4)})
                    recent = []
                if state["step"] % EVALUATE_EVERY == 0 or last:
                    self._note(evaluate(self.model, self.utterances, self.phone_ids, self.voices))
                if state["step"] % SAVE_EVERY == 0 or last:
                    save(self.path, self.model, self.optimizer, state)
                    curve = json.dumps(state["curve"], indent=1)
                    (self.work / "tokenizer_curve.json").write_text(curve)
            state["epoch"], state["batch"] = state["epoch"] + 1, 0

    def _note(self, values: dict[str, Any]) -> None:
        """Add a point to the curve."""
        point = {"step": self.state["step"], "cpu_s": round(self.state["cpu_s"]), **values}
        log.info("%s", point)
        self.state["curve"].append(point)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the speech tokenizer.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="ONNX file")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    run = Run(args.work, args.steps, TokenizerConfig())
    run.train()
    export_onnx(run.model.tokenizer, args.output)
    log.info("wrote %s", args.output)


if __name__ == "__main__":
    main()
