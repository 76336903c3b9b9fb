# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the ears: fine-tune Whisper's encoder, and train the adapter to predict words.

    python -m training.nano.train_ears                         # ears.pt: predicts characters
    python -m training.nano.train_ears --llm models/text       # ears_words.pt: predicts words, too

Both resume from their last checkpoint; a larger ``--steps`` extends a finished run. The first
predicts characters from every 25 Hz vector (CTC). The second starts from its result, if there is
one, and also predicts words from the mean of five vectors through the adapter (CTC over the
language model's embeddings, by angles from their centre). In the second half of its steps, the
adapter's output is drawn towards the embeddings of the words it predicts. Silence is the language
model's silence token.

The speech comes from ``training.nano.speech``, mixed by kind; recordings added during training are
used from the next epoch on. The curve is written beside the checkpoint, and so is ``NAME_best.pt``,
the checkpoint with the lowest error rate on held-out real speakers (or on training voices if there
are no real speakers).
"""

import argparse
import logging
import os
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer

from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from training.nano.ears import PACKAGED, Ears, character_ids, open_whisper
from training.nano.features import WHISPER_HOP, WHISPER_HZ
from training.nano.loop import Run, parse
from training.nano.rows import words
from training.nano.sizes import GROUP_SIZE, WIDTH
from training.nano.speech import SpeechStore
from training.nano.train_encoder import blank_bands
from training.nano.train_tokenizer import best_path
from training.whisper_encoder import WhisperEncoder

log = logging.getLogger(__name__)

# Shares of the mix by kind; the share of a missing kind goes to the others.
MIX = {"open": 0.28, "question": 0.23, "order": 0.16, "symbols": 0.1, "real": 0.23}
EPOCH = 2400  # recordings
LONGEST_S = 15.0
BATCH_FRAMES = 6000  # mel frames, padding included
ALIKE = 240  # recordings that are sorted by length to make batches
DRAW_FROM, DRAW_WEIGHT, LENGTH_WEIGHT = 0.5, 1.0, 0.1
SETS = ("people", "test_known", "test_new")
EVALUATED = 60  # recordings of every set except ``people``

Row = dict[str, Any]


class EarsRun(Run):
    """The ears' training.

    Args:
        work: data and checkpoint folder.
        whisper: initial weights of the encoder.
        steps: length of the schedule; a larger value extends a resumed run.
        llm: folder of the joint model whose words are predicted; None for characters only.
        seed: seed of the new weights and of the order of the recordings.
    """

    model: Ears
    peak_rate = 1e-3
    warm_up_steps = 80
    hold, last_rate = 0.3, 0.03
    save_every, evaluate_every = 25, 200

    def __init__(
        self,
        work: Path,
        whisper: WhisperEncoder,
        steps: int = 0,
        llm: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.folder, self.seed = work / "ears", seed
        torch.manual_seed(seed)
        model = self._open_words(whisper, llm) if llm else Ears(whisper, WIDTH)
        optimizer = torch.optim.AdamW(model.groups(), self.peak_rate, betas=(0.9, 0.98))
        path = work / ("ears_words.pt" if llm else "ears.pt")
        if llm and not path.exists() and (first := work / "ears_best.pt").exists():
            self._take(model, torch.load(first, weights_only=True)["model"])
        super().__init__(path, model, optimizer, steps)
        self.state["steps"] = max(steps, self.state["steps"])
        self.bfloat16 = False

    def _open_words(self, whisper: WhisperEncoder, llm: Path) -> Ears:
        """Build ears that predict the text tokens of the transcripts by their embeddings."""
        self.tokenizer = AutoTokenizer.from_pretrained(llm)
        names = ("synthetic", "real", "test_known", "test_new")
        texts = {row["text"] for name in names for row in SpeechStore(self.folder / name).rows}
        self.tokens = sorted({t for text in texts for t in self._tokens_of(text)})
        self.word_ids = {token: i for i, token in enumerate(self.tokens, 1)}
        listener = FunAudioChatForConditionalGeneration.from_pretrained(llm)
        table = listener.get_input_embeddings().weight.detach().float()
        known = [listener.config.text_config.sil_index, *self.tokens]
        return Ears(whisper, table.shape[1], table[known].clone(), table.mean(0))

    def _tokens_of(self, text: str) -> list[int]:
        return self.tokenizer("".join(words(text)))["input_ids"]

    @staticmethod
    def _take(model: Ears, weights: dict[str, Tensor]) -> None:
        """Copy the weights of other ears where shapes agree; a new width needs new projections."""
        own = model.state_dict()
        fitting = {k: v for k, v in weights.items() if v.shape == own[k].shape}
        model.load_state_dict(fitting, strict=False)

    def batches(self, epoch: int) -> Iterator[list[tuple[Tensor, Row]]]:
        rng = Random(f"{self.seed}/{epoch}")
        by_kind: dict[str, list[tuple[SpeechStore, Row]]] = {}
        for name in ("synthetic", "real"):
            store = SpeechStore(self.folder / name)
            for row in store.rows:
                if row.get("part") != "valid" and row["samples"] < LONGEST_S * WHISPER_HZ:
                    by_kind.setdefault(row["kind"], []).append((store, row))
        total = sum(MIX[kind] for kind in by_kind)
        chosen = []
        for kind, rows in sorted(by_kind.items()):
            count = round(EPOCH * MIX[kind] / total)
            chosen += rng.sample(rows * -(-count // len(rows)), count)
        rng.shuffle(chosen)
        groups = []
        for start in range(0, len(chosen), ALIKE):
            part = sorted(chosen[start : start + ALIKE], key=lambda item: item[1]["samples"])
            batch: list[tuple[SpeechStore, Row]] = []
            for item in part:
                if (len(batch) + 1) * item[1]["samples"] > BATCH_FRAMES * WHISPER_HOP and batch:
                    groups.append(batch)
                    batch = []
                batch.append(item)
            groups.append(batch)
        rng.shuffle(groups)
        for group in groups:
            yield [(store.waveform(row), row) for store, row in group]

    @property
    def draw_from(self) -> int:
        """The step from which outputs are drawn towards the embeddings of their words."""
        return int(DRAW_FROM * self.state["steps"])

    def train_step(self, batch: list[tuple[Tensor, Row]]) -> dict[str, float]:
        if self.model.embeddings is not None and self.state["step"] in (0, self.draw_from):
            self.model.scale_adapter([self.model.mel(waveform) for waveform, _ in batch])
        return super().train_step(batch)

    def losses(self, batch: list[tuple[Tensor, Row]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute CTC of characters and, with a language model, CTC of words and distances."""
        mels = [blank_bands(self.model.mel(waveform)[None])[0] for waveform, _ in batch]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            vectors, counts = self.model.encode(mels)
            by_character = self.model.read_characters(vectors)
        texts = [row["text"] for _, row in batch]
        parts = {"ctc_characters": _ctc(by_character, counts, [character_ids(t) for t in texts])}
        total = parts["ctc_characters"]
        if self.model.embeddings is not None:
            adapted, groups = self.model.adapt(vectors), -(-counts // GROUP_SIZE)
            by_word = self.model.read_words(adapted)
            spoken = [[self.word_ids[t] for t in self._tokens_of(text)] for text in texts]
            parts["ctc_words"] = _ctc(by_word, groups, spoken)
            parts["length"] = self.model.length_error(adapted)
            parts["distance"] = self.model.distance(adapted, by_word, groups)
            total = total + parts["ctc_words"] + LENGTH_WEIGHT * parts["length"]
            if self.state["step"] >= self.draw_from:
                total = total + DRAW_WEIGHT * parts["distance"]
        return total, parts

    def choose_precision(self) -> None:
        """Time float32 and bfloat16 in CPU seconds, and choose the faster."""
        # Two recordings: without hardware support, bfloat16 takes many times as long.
        batch = next(self.batches(self.state["epoch"]))[:2]
        seconds = {}
        for self.bfloat16 in (False, True):
            times = []
            for _ in range(2):
                started = time.process_time()
                self.losses(batch)[0].backward()
                times.append(time.process_time() - started)
            seconds[self.bfloat16] = min(times)
        self.optimizer.zero_grad()
        self.bfloat16 = seconds[True] < seconds[False]
        log.info(
            "two recordings take %.2f s in float32 and %.2f s with bfloat16: %s",
            seconds[False], seconds[True], "bfloat16" if self.bfloat16 else "float32",
        )  # fmt: skip

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute word error rates for held-out speakers, training voices and held-out voices."""
        result = {}
        for name in SETS:
            store = SpeechStore(self.folder / ("real" if name == "people" else name))
            rows = [row for row in store.rows if name != "people" or row["part"] == "valid"]
            rows = rows if name == "people" else rows[:EVALUATED]
            if rows:
                waveforms = [store.waveform(row) for row in rows]
                result[name] = self._errors(waveforms, [row["text"] for row in rows])
        if not result:
            return result
        measured = next(iter(result.values()))
        score = measured.get("word_error_percent", measured["character_word_error_percent"])
        if score < self.state.get("best", float("inf")):
            self.state["best"] = score
            best = self.path.with_name(f"{self.path.stem}_best.pt")
            partial = best.with_suffix(".partial")
            torch.save({"model": self.model.state_dict(), "step": self.state["step"]}, partial)
            os.replace(partial, best)
        return result

    def _errors(self, waveforms: list[Tensor], texts: list[str]) -> dict[str, float]:
        heard = [self.model.hear(waveform) for waveform in waveforms]
        found = {"character_word_error_percent": round(100 * jiwer.wer(texts, heard), 2)}
        if self.model.embeddings is not None:
            written = [str(self.tokenizer.decode(self._tokens_of(text))) for text in texts]
            heard = [self.hear_words(waveform) for waveform in waveforms]
            found["word_error_percent"] = round(100 * jiwer.wer(written, heard), 2)
        return found

    def hear_words(self, waveform: Tensor) -> str:
        """Transcribe a 16 kHz waveform [S] as the words that the language model reads."""
        vectors, counts = self.model.encode([self.model.mel(waveform)])
        by_word = self.model.read_words(self.model.adapt(vectors))
        groups = -(-int(counts) // GROUP_SIZE)
        ids = [self.tokens[i - 1] for i in best_path(by_word[0, :groups])]
        return str(self.tokenizer.decode(ids))


def _ctc(scores: Tensor, counts: Tensor, wanted: list[list[int]]) -> Tensor:
    """Compute CTC of log-probabilities [B, T, symbols]; targets that do not fit count 0."""
    sizes = torch.tensor([len(symbols) for symbols in wanted])
    targets = torch.tensor(list(chain.from_iterable(wanted)))
    return F.ctc_loss(scores.transpose(0, 1), targets, counts, sizes, zero_infinity=True)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the ears.")
    parser.add_argument(
        "--audio-encoder", default=PACKAGED, help="Whisper folder; default: tiny.en from a package"
    )
    parser.add_argument(
        "--llm",
        type=Path,
        help="joint model whose words are predicted, relative to the data folder",
    )
    args = parse(parser, steps=4000)
    whisper = open_whisper(args.audio_encoder)
    run = EarsRun(args.work, whisper, args.steps, args.llm and args.work / args.llm)
    run.choose_precision()
    run.train()


if __name__ == "__main__":
    main()
