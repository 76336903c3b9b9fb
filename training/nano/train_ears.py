# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the ears: Whisper's encoder to hear the domain, and the adapter to say it in words.

    python -m training.nano.train_ears                         # ears.pt: characters
    python -m training.nano.train_ears --llm models/text       # ears_words.pt: words as well

Both resume from their last checkpoint, and go on beyond their end if ``--steps`` is larger. First,
every 25 Hz vector says its characters (CTC). Then, from there, the mean of five vectors says words
through the adapter (CTC over the language model's embeddings, by angles from their centre); in the
end it is drawn to the embedding of what is read. Silence is the language model's silence token.

Speech is that of ``training.nano.speech``, mixed by kind; what grows meanwhile is used from the
next epoch on. Beside the checkpoint lie its curve and, in ``NAME_best.pt``, the ears that heard
best of people whom training leaves out (of known voices, where there are no recordings of people).
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

# Shares of the mix by kind; a kind that is not there leaves its share to the others.
MIX = {"open": 0.28, "question": 0.23, "order": 0.16, "symbols": 0.1, "real": 0.23}
EPOCH = 2400  # recordings
LONGEST_S = 15.0
BATCH_FRAMES = 6000  # of spectrogram, padding included
ALIKE = 240  # recordings among which those of like length make batches
DRAW_FROM, DRAW_WEIGHT, LENGTH_WEIGHT = 0.8, 1.0, 0.1
SETS = ("people", "test_known", "test_new")
EVALUATED = 60  # recordings of every set but people

Row = dict[str, Any]


class EarsRun(Run):
    """The ears' training.

    Args:
        work: data and checkpoint folder.
        whisper: what the encoder begins with.
        steps: length of the schedule; more than before makes it longer.
        llm: folder of the joint model whose language model is going to listen; none: characters.
    """

    model: Ears
    peak_rate = 1e-3
    warm_up_steps = 80
    hold, last_rate = 0.3, 0.03
    save_every, evaluate_every = 25, 200

    def __init__(
        self, work: Path, whisper: WhisperEncoder, steps: int = 0, llm: Path | None = None
    ) -> None:
        self.folder = work / "ears"
        torch.manual_seed(0)
        model = self._open_words(whisper, llm) if llm else Ears(whisper, WIDTH)
        optimizer = torch.optim.AdamW(model.groups(), self.peak_rate, betas=(0.9, 0.98))
        path = work / ("ears_words.pt" if llm else "ears.pt")
        if llm and not path.exists() and (first := work / "ears_best.pt").exists():
            self._take(model, torch.load(first, weights_only=True)["model"])
        super().__init__(path, model, optimizer, steps)
        self.state["steps"] = max(steps, self.state["steps"])
        self.bfloat16 = False

    def _open_words(self, whisper: WhisperEncoder, llm: Path) -> Ears:
        """Ears that read the tokens of all there is to hear, as embeddings of this model."""
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
        """Begin with weights of other ears where they fit; a new width needs new projections."""
        own = model.state_dict()
        fitting = {k: v for k, v in weights.items() if v.shape == own[k].shape}
        model.load_state_dict(fitting, strict=False)

    def batches(self, epoch: int) -> Iterator[list[tuple[Tensor, Row]]]:
        rng = Random(epoch)
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
            yield [(store.wave(row), row) for store, row in group]

    @property
    def draw_from(self) -> int:
        """The step from which words are drawn to their embeddings."""
        return int(DRAW_FROM * self.state["steps"])

    def train_step(self, batch: list[tuple[Tensor, Row]]) -> dict[str, float]:
        if self.model.embeddings is not None and self.state["step"] in (0, self.draw_from):
            self.model.scale_adapter([self.model.mel(wave) for wave, _ in batch])
        return super().train_step(batch)

    def losses(self, batch: list[tuple[Tensor, Row]]) -> tuple[Tensor, dict[str, Tensor]]:
        """CTC of characters; with a language model also of words, and how near they are to it."""
        mels = [blank_bands(self.model.mel(wave)[None])[0] for wave, _ in batch]
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
        """Measure float32 and bfloat16 products (CPU seconds), and take the faster."""
        # Where a processor has no such products they take many times as long: two recordings do.
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
        """Word error rates of people left out, of known voices and of voices never trained on."""
        result = {}
        for name in SETS:
            store = SpeechStore(self.folder / ("real" if name == "people" else name))
            rows = [row for row in store.rows if name != "people" or row["part"] == "valid"]
            rows = rows if name == "people" else rows[:EVALUATED]
            if rows:
                waves = [store.wave(row) for row in rows]
                result[name] = self._errors(waves, [row["text"] for row in rows])
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

    def _errors(self, waves: list[Tensor], texts: list[str]) -> dict[str, float]:
        heard = [self.model.hear(wave) for wave in waves]
        found = {"character_word_error_percent": round(100 * jiwer.wer(texts, heard), 2)}
        if self.model.embeddings is not None:
            written = [str(self.tokenizer.decode(self._tokens_of(text))) for text in texts]
            heard = [self.hear_words(wave) for wave in waves]
            found["word_error_percent"] = round(100 * jiwer.wer(written, heard), 2)
        return found

    def hear_words(self, wave: Tensor) -> str:
        """Transcribe a 16 kHz waveform [S] as the words that the language model reads."""
        vectors, counts = self.model.encode([self.model.mel(wave)])
        by_word = self.model.read_words(self.model.adapt(vectors))
        groups = -(-int(counts) // GROUP_SIZE)
        ids = [self.tokens[i - 1] for i in best_path(by_word[0, :groups])]
        return str(self.tokenizer.decode(ids))


def _ctc(scores: Tensor, counts: Tensor, wanted: list[list[int]]) -> Tensor:
    """CTC of scores [B, T, symbols] with lengths [B]; what does not fit counts nothing."""
    sizes = torch.tensor([len(symbols) for symbols in wanted])
    targets = torch.tensor(list(chain.from_iterable(wanted)))
    return F.ctc_loss(scores.transpose(0, 1), targets, counts, sizes, zero_infinity=True)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the ears.")
    parser.add_argument(
        "--audio-encoder", default=PACKAGED, help="Whisper folder; else tiny.en of a package"
    )
    parser.add_argument(
        "--llm", type=Path, help="joint model that is going to listen, below the data folder"
    )
    args = parse(parser, steps=4000)
    whisper = open_whisper(args.audio_encoder)
    run = EarsRun(args.work, whisper, args.steps, args.llm and args.work / args.llm)
    run.choose_precision()
    run.train()


if __name__ == "__main__":
    main()
