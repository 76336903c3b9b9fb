# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the speech tokenizer so that its tokens determine phones and spectrogram.

    python -m training.nano.train_tokenizer            # resumes from its last checkpoint
    python -m training.nano.train_tokenizer --steps 500 --work /tmp/try

Two branches, which are not shipped, read the eight quantized digits: one predicts phones (CTC), the
other the mel spectrogram, given the voice. Writes ``tokenizer.pt`` (checkpoint) and
``tokenizer_curve.json`` (losses; phone error rates on held-out answers, wordings and voices) below
``--work``, and the ONNX file to ``--output`` at the end.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.nano.data import read_jsonl
from training.nano.features import WHISPER_HZ, WHISPER_MELS, FrameStore, read_waveform, whisper_mel
from training.nano.loop import Run, parse
from training.nano.tokenizer import (
    DIGITS,
    Block,
    SpeechTokenizer,
    TokenizerConfig,
    export_onnx,
    token_length,
    tokens_of,
)

log = logging.getLogger(__name__)

OUTPUT = Path("pretrained_models/Fun-CosyVoice3-Nano/speech_tokenizer_v3.onnx")
QUESTION_SPLITS = ("train", "scrambled", "valid_paraphrase", "test_paraphrase", "test_voice")
RECONSTRUCTION_WEIGHT = 1.0
BATCH_MEL_FRAMES = 3000
EVALUATED = 100  # utterances of each held-out set


@dataclass
class Utterance:
    """One recording: its features, text, phones, voice and set."""

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
    """The tokenizer with the two branches used for training.

    Args:
        config: sizes of the tokenizer.
        phones: number of phone symbols, without CTC's blank.
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
        """Predict phone log-probabilities [B, T, phones + 1] from digits [B, T, 8]."""
        x = self.phone_block(self.phone_in(digits), valid)
        return self.phone_out(x).log_softmax(-1)

    def read_mel(self, digits: Tensor, valid: Tensor, voice: Tensor) -> Tensor:
        """Predict the spectrogram [B, mels, 4T] from digits [B, T, 8] and voices [B]."""
        x = self.mel_in(digits) + self.voice(voice)[:, None]
        for block in self.mel_blocks:
            x = block(x, valid)
        return self.mel_out(x).reshape(len(x), -1, self.mels).transpose(1, 2)

    def losses(
        self, mel: Tensor, lengths: Tensor, phones: Tensor, phone_lengths: Tensor, voice: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute CTC and reconstruction loss.

        Args:
            mel: [B, mels, M], zero beyond an item's length.
            lengths: [B] in mel frames.
            phones: concatenated targets, counted from 1; 0 is the blank.
            phone_lengths: [B].
            voice: [B] voice numbers.
        """
        noisy = mel + 0.02 * torch.randn_like(mel)
        digits, valid = self.tokenizer.digits(noisy, lengths)
        scores = self.read_phones(digits, valid).transpose(0, 1)
        ctc = F.ctc_loss(scores, phones, token_length(lengths), phone_lengths, zero_infinity=True)
        rebuilt = self.read_mel(digits, valid, voice)[..., : mel.shape[2]]
        inside = (torch.arange(mel.shape[2]) < lengths[:, None])[:, None].to(mel.dtype)
        error = ((rebuilt - mel).abs() * inside).sum() / (inside.sum() * self.mels)
        return ctc, error


def collect(work: Path) -> list[Utterance]:
    """List all utterances of the manifests, computing missing features."""
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
        store.extend(whisper_mel(read_waveform(work / i["audio"], WHISPER_HZ)).T for i in todo)
        for index, item in enumerate(items):
            learned = name == "scrambled" or item.get("part") == "train"
            group = "train" if learned else name
            said = item["text"], item["phones"], item["voice"]
            utterances.append(Utterance(store, index, *said, group))
    return utterances


def collate(batch: list[Utterance], phone_ids: dict[str, int], voices: list[str]) -> list[Tensor]:
    """Build the arguments of ``TokenizerTrainer.losses``; unknown voices count as the first."""
    mel = nn.utils.rnn.pad_sequence([u.store[u.index] for u in batch], batch_first=True)
    targets = torch.tensor([phone_ids[p] for u in batch for p in u.phones])
    voice = [voices.index(u.voice) if u.voice in voices else 0 for u in batch]
    lengths = torch.tensor([u.frames for u in batch])
    phone_lengths = torch.tensor([len(u.phones) for u in batch])
    return [mel.transpose(1, 2), lengths, targets, phone_lengths, torch.tensor(voice)]


def batches(utterances: list[Utterance], epoch: int) -> Iterator[list[Utterance]]:
    """Yield batches of similar lengths and bounded size, shuffled by the epoch's number."""
    rng = Random(epoch)
    ordered = sorted(utterances, key=lambda u: u.frames + rng.uniform(0, 20))
    found: list[list[Utterance]] = [[]]
    for utterance in ordered:
        if (len(found[-1]) + 1) * utterance.frames > BATCH_MEL_FRAMES and found[-1]:
            found.append([])
        found[-1].append(utterance)
    rng.shuffle(found)
    yield from found


class TokenizerRun(Run):
    """The tokenizer's training.

    Args:
        work: data and checkpoint folder.
        steps: length of the schedule.
        config: sizes.
    """

    model: TokenizerTrainer
    peak_rate = 1.5e-3

    def __init__(self, work: Path, steps: int, config: TokenizerConfig) -> None:
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
        model = TokenizerTrainer(config, len(symbols), len(self.voices))
        optimizer = torch.optim.AdamW(model.parameters(), self.peak_rate, weight_decay=0.01)
        super().__init__(work / "tokenizer.pt", model, optimizer, steps)

    def batches(self, epoch: int) -> Iterator[list[Utterance]]:
        return batches(self.train_set, epoch)

    def losses(self, batch: list[Utterance]) -> tuple[Tensor, dict[str, Tensor]]:
        ctc, error = self.model.losses(*collate(batch, self.phone_ids, self.voices))
        return ctc + RECONSTRUCTION_WEIGHT * error, {"ctc": ctc, "mel_l1": error}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute phone error rate, tokens used and reconstruction error on the held-out sets."""
        symbol = {i: p for p, i in self.phone_ids.items()}
        groups: dict[str, list[Utterance]] = {}
        for u in self.utterances:
            if u.group != "train":
                by_voice = u.group in ("answers", "test_voice")
                groups.setdefault(f"{u.group}/{u.voice}" if by_voice else u.group, []).append(u)
        result = {}
        for name, group in sorted(groups.items()):
            chosen = Random(0).sample(group, min(EVALUATED, len(group)))
            heard, used, error = [], set(), 0.0
            for u in chosen:
                mel, lengths, _, _, voice = collate([u], self.phone_ids, self.voices)
                digits, valid = self.model.tokenizer.digits(mel, lengths)
                phones = best_path(self.model.read_phones(digits, valid)[0])
                heard.append("".join(symbol[i] for i in phones))
                used.update(tokens_of(digits)[0].tolist())
                rebuilt = self.model.read_mel(digits, valid, voice)[..., : mel.shape[2]]
                error += float((rebuilt - mel).abs().mean()) / len(chosen)
            result[name] = {
                "phone_error_percent": round(100 * jiwer.cer([u.phones for u in chosen], heard), 2),
                "codes_used": len(used),
                "reconstruction_l1": round(error, 4),
                "utterances": len(chosen),
            }
        return result


def best_path(scores: Tensor) -> list[int]:
    """Decode CTC scores [T, symbols] greedily, merging repetitions and dropping blanks."""
    return [i for i in scores.argmax(-1).unique_consecutive().tolist() if i]


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the speech tokenizer.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="ONNX file")
    args = parse(parser, steps=10000)
    run = TokenizerRun(args.work, args.steps, TokenizerConfig())
    run.train()
    export_onnx(run.model.tokenizer, args.output)
    log.info("wrote %s", args.output)


if __name__ == "__main__":
    main()
