# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the mel encoder to hear words, as the paper begins with an encoder that knows speech.

    python -m training.nano.train_encoder              # resumes from its last checkpoint

Two branches that are not shipped read it by CTC: phones from every 25 Hz vector, and words, which
are tokens of the language model, from the mean of five of them, which is all that the language
model gets. Bands of the spectrogram are blanked (Park et al., "SpecAugment", arXiv 1904.08779,
section 2). Needs the tokenizer of ``models/new``. Writes ``encoder.pt`` and ``encoder_curve.json``
below ``--work``.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from funaudiochat.configuration_funaudiochat import FunAudioChatAudioEncoderConfig
from funaudiochat.modeling_funaudiochat import FunAudioChatAudioEncoder
from training.nano.checkpoint import restore, save
from training.nano.data import WORK
from training.nano.rows import words
from training.nano.sizes import AUDIO, GROUP_SIZE
from training.nano.train_tokenizer import Utterance, batches, collate, collect

log = logging.getLogger(__name__)

PEAK_RATE, WARM_UP_STEPS = 1e-3, 300
BLANKED_BANDS, WIDEST_BAND = 2, 20
SAVE_EVERY, EVALUATE_EVERY = 250, 1000
EVALUATED = 100  # utterances of each held-out set


class EncoderTrainer(nn.Module):
    """The mel encoder with its two reading branches.

    Args:
        phones, tokens: numbers of symbols; CTC's blank is added.
    """

    def __init__(self, phones: int, tokens: int) -> None:
        super().__init__()
        self.encoder = FunAudioChatAudioEncoder(FunAudioChatAudioEncoderConfig(**AUDIO))
        width = AUDIO["output_dim"]
        self.phone_out = nn.Linear(width, phones + 1)
        self.word_out = nn.Linear(width, tokens + 1)

    def encode(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of sound.

        Args:
            mel: [B, mels, M]; lengths: [B] mel frames before the padding.

        Returns:
            [B, T, width], T a multiple of five, and the lengths [B] in 25 Hz frames.
        """
        items = [item[:, :length] for item, length in zip(mel, lengths.tolist(), strict=True)]
        _, counts = self.encoder._get_feat_extract_output_lengths(lengths)
        total = -(-int(counts.max()) // GROUP_SIZE) * GROUP_SIZE
        encoded = self.encoder(torch.cat(items, dim=1), lengths, speech_maxlen=total)
        return encoded.last_hidden_state, counts

    def read(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [B, T, width] -> log-probabilities of phones [B, T, .], words [B, T / 5, .]."""
        by_word = self.word_out(group_means(vectors))
        return self.phone_out(vectors).log_softmax(-1), by_word.log_softmax(-1)


def group_means(vectors: Tensor) -> Tensor:
    """[B, T, D] -> [B, T / 5, D]."""
    return vectors.unflatten(1, (-1, GROUP_SIZE)).mean(2)


def blank_bands(mel: Tensor) -> Tensor:
    """Spectrogram [B, mels, M] with some bands of each item at its mean, and a little noise."""
    mel = mel + 0.02 * torch.randn_like(mel)
    bands = torch.arange(mel.shape[1])
    for _ in range(BLANKED_BANDS):
        width = torch.randint(0, WIDEST_BAND + 1, (len(mel), 1))
        start = (torch.rand(len(mel), 1) * (mel.shape[1] - width)).long()
        blank = (bands >= start) & (bands < start + width)
        mel = torch.where(blank[..., None], mel.mean((1, 2), keepdim=True), mel)
    return mel


class Run:
    """A training run that can stop at any step and go on.

    Args:
        work: data and checkpoint folder.
        steps: length of the schedule; a resumed run keeps the one it was started with.
    """

    def __init__(self, work: Path, steps: int) -> None:
        self.work, self.path = work, work / "encoder.pt"
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "models" / "new")
        self.utterances = collect(work)
        self.train_set = [u for u in self.utterances if u.group == "train"]
        phones = sorted({p for u in self.train_set for p in u.phones})
        self.phone_ids = {p: i for i, p in enumerate(phones, 1)}
        # Text -> tokens of what there is to hear of it.
        self.spoken = {
            text: self.tokenizer("".join(words(text)))["input_ids"]
            for text in {u.text for u in self.utterances}
        }
        tokens = sorted({t for u in self.train_set for t in self.spoken[u.text]})
        self.word_ids = {token: i for i, token in enumerate(tokens, 1)}
        torch.manual_seed(0)
        self.model = EncoderTrainer(len(phones), len(tokens))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05
        )
        self.state: dict[str, Any] = {
            "step": 0, "steps": steps, "epoch": 0, "batch": 0, "cpu_s": 0.0, "curve": [],
            "tokens": tokens,
        }  # fmt: skip
        self.state |= restore(self.path, self.model, self.optimizer)

    def losses(self, batch: list[Utterance]) -> tuple[Tensor, Tensor]:
        """CTC of phones and of words."""
        mel, lengths, phones, phone_lengths, _ = collate(batch, self.phone_ids, [])
        vectors, counts = self.model.encode(blank_bands(mel), lengths)
        by_phone, by_word = self.model.read(vectors)
        spoken = [[self.word_ids[t] for t in self.spoken[u.text]] for u in batch]
        word_lengths = torch.tensor([len(s) for s in spoken])
        targets = torch.tensor([w for s in spoken for w in s])
        phone_loss, word_loss = (
            F.ctc_loss(scores.transpose(0, 1), wanted, inputs, sizes, zero_infinity=True)
            for scores, wanted, inputs, sizes in (
                (by_phone, phones, counts, phone_lengths),
                (by_word, targets, -(-counts // GROUP_SIZE), word_lengths),
            )
        )
        return phone_loss, word_loss

    def train_step(self, batch: list[Utterance]) -> tuple[float, float]:
        """One update; returns both losses."""
        step, steps = self.state["step"], self.state["steps"]
        rate = PEAK_RATE * min(1, (step + 1) / WARM_UP_STEPS) * max(0.02, 1 - step / steps)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        phone_loss, word_loss = self.losses(batch)
        self.optimizer.zero_grad()
        (phone_loss + word_loss).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return phone_loss.item(), word_loss.item()

    @torch.no_grad()
    def evaluate(self) -> dict[str, dict[str, float]]:
        """Phone and word error rates of the held-out sets."""
        self.model.eval()
        symbol = {i: p for p, i in self.phone_ids.items()}
        groups: dict[str, list[Utterance]] = {}
        for u in self.utterances:
            if u.group not in ("train", "answers"):
                name = f"{u.group}/{u.voice}" if u.group == "test_voice" else u.group
                groups.setdefault(name, []).append(u)
        result = {}
        for name, group in sorted(groups.items()):
            chosen = group[:: max(1, len(group) // EVALUATED)][:EVALUATED]
            heard: tuple[list[str], list[str]] = ([], [])
            for u in chosen:
                mel, lengths, *_ = collate([u], self.phone_ids, [])
                vectors, counts = self.model.encode(mel, lengths)
                by_phone, by_word = self.model.read(vectors)
                phones = _best(by_phone[0, : int(counts)])
                heard[0].append("".join(symbol[i] for i in phones))
                tokens = [self.state["tokens"][i - 1] for i in _best(by_word[0])]
                heard[1].append(self.tokenizer.decode(tokens))
            said = [u.phones for u in chosen]
            written = [self.tokenizer.decode(self.spoken[u.text]) for u in chosen]
            result[name] = {
                "phone_error_percent": round(100 * jiwer.cer(said, heard[0]), 2),
                "word_error_percent": round(100 * jiwer.wer(written, heard[1]), 2),
            }
        self.model.train()
        return result

    def train(self) -> None:
        """Train to the end of the schedule."""
        state = self.state
        recent: list[tuple[float, float]] = []
        while state["step"] < state["steps"]:
            todo = list(batches(self.train_set, state["epoch"]))[state["batch"] :]
            for batch in todo[: state["steps"] - state["step"]]:
                started = time.process_time()
                recent.append(self.train_step(batch))
                state["step"], state["batch"] = state["step"] + 1, state["batch"] + 1
                state["cpu_s"] += time.process_time() - started
                last = state["step"] == state["steps"]
                if state["step"] % SAVE_EVERY == 0 or last:
                    by_phone, by_word = (sum(x) / len(recent) for x in zip(*recent, strict=True))
                    point = {"step": state["step"], "cpu_s": round(state["cpu_s"])}
                    point |= {"ctc_phones": round(by_phone, 4), "ctc_words": round(by_word, 4)}
                    if state["step"] % EVALUATE_EVERY == 0 or last:
                        point["held_out"] = self.evaluate()
                    log.info("%s", point)
                    state["curve"].append(point)
                    recent = []
                    save(self.path, self.model, self.optimizer, state)
                    curve = json.dumps(state["curve"], indent=1)
                    (self.work / "encoder_curve.json").write_text(curve)
            state["epoch"], state["batch"] = state["epoch"] + 1, 0


def _best(scores: Tensor) -> list[int]:
    """Symbols of the most likely path [T, symbols] without repetitions and blanks."""
    return [i for i in scores.argmax(-1).unique_consecutive().tolist() if i]


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the mel encoder to hear words.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    Run(args.work, args.steps).train()


if __name__ == "__main__":
    main()
