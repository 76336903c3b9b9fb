# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the mel encoder to recognise words; it stands in for the paper's pretrained encoder.

    python -m training.nano.train_encoder              # resumes from its last checkpoint

Three branches, which are not shipped, predict from its output. From every 25 Hz vector: phones, by
CTC, and the digits of the speech token of the same 40 ms, which align the phones in time. From the
mean of five vectors, which is all that the language model receives: words by CTC, through the
    adapter
and the language model's embeddings. In the last steps the adapter's output is drawn towards these
embeddings, so that the language model can read it. Bands of the spectrogram are blanked (Park et
al., "SpecAugment", arXiv 1904.08779, section 2). Writes ``encoder.pt`` and ``encoder_curve.json``
below ``--work``.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from funaudiochat.audio_encoders import FunAudioChatAudioAttention
from funaudiochat.configuration_funaudiochat import FunAudioChatAudioEncoderConfig
from funaudiochat.modeling_funaudiochat import (
    FunAudioChatAudioEncoder,
    FunAudioChatForConditionalGeneration,
)
from training.nano.encode import open_tokenizer, tokens_of_mel
from training.nano.loop import Run, parse
from training.nano.rows import words
from training.nano.sizes import AUDIO, GROUP_SIZE
from training.nano.tokenizer import DIGITS, digits_of
from training.nano.train_tokenizer import (
    OUTPUT,
    Utterance,
    batches,
    best_path,
    collate,
    collect,
)

DIGIT_WEIGHT = 2.0
# A word's logit is the cosine between its embedding and the audio's vector, times this.
SHARPNESS = 30
# In the last tenth of the steps, outputs are drawn towards the embeddings of their words; silence,
# the most frequent symbol, counts less.
DRAW_FROM, DRAW_WEIGHT, SILENCE_SHARE = 0.9, 2.0, 0.3
# Initial offset of each head in each layer, in positions of 20 ms, and its sharpness.
OFFSETS = ((-3, -1, 1, 3), (-4, -1, 1, 4), (-8, -3, 3, 8), (-16, -6, 6, 16))
FOCUS = 1.6
BLANKED_BANDS, WIDEST_BAND = 2, 20  # of 128 mel bins
EVALUATED = 100  # utterances of each held-out set


def look_at_neighbours(attention: FunAudioChatAudioAttention, offsets: tuple[int, ...]) -> None:
    """Initialise queries and keys so that each head attends to a fixed offset.

    Both read sines and cosines of the position table at the same frequencies. The queries are
    rotated by the offset, so that the product is largest there, and the head starts out like a
    convolution (d'Ascoli et al., "ConViT", arXiv 2103.10697, section 3, for positions in an image).

    Args:
        attention: attention of a layer.
        offsets: one for each head, in positions.
    """
    width = attention.q_proj.weight.shape[0]
    half, pairs = width // 2, width // len(offsets) // 2
    frequencies = 10000.0 ** -(torch.arange(half) / (half - 1))
    queries, keys = 0.02 * torch.randn(2, width, width)
    for head, offset in enumerate(offsets):
        # Heads with larger offsets are less sharp: they use lower frequencies.
        first = 0 if abs(offset) <= 4 else 8 if abs(offset) <= 8 else 16
        for pair in range(pairs):
            sine = first + pair
            cosine, row = half + sine, 2 * (head * pairs + pair)
            turn = float(frequencies[sine]) * offset
            queries[row, sine] += FOCUS * math.cos(turn)
            queries[row, cosine] += FOCUS * math.sin(turn)
            queries[row + 1, cosine] += FOCUS * math.cos(turn)
            queries[row + 1, sine] -= FOCUS * math.sin(turn)
            keys[row, sine] += FOCUS
            keys[row + 1, cosine] += FOCUS
    attention.q_proj.weight.data = queries
    attention.k_proj.weight.data = keys


def initialize(encoder: FunAudioChatAudioEncoder) -> None:
    """Initialise for unit gain; the usual deviation of 0.02 is far too small at this width."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for convolution in (encoder.conv1, encoder.conv2):
        convolution.weight.data *= 2**0.5
    layers: Any = encoder.layers
    for layer, offsets in zip(layers, OFFSETS, strict=True):
        layer.self_attn.out_proj.weight.data *= 0.5
        layer.fc2.weight.data *= 0.5
        look_at_neighbours(layer.self_attn, offsets)


class EncoderTrainer(nn.Module):
    """The mel encoder and the adapter, with the branches used for training.

    Args:
        phones: number of phone symbols, without CTC's blank.
        embeddings: [words + 1, width] of silence, which is the blank, and the words.
    """

    def __init__(self, phones: int, embeddings: Tensor) -> None:
        super().__init__()
        self.encoder = FunAudioChatAudioEncoder(FunAudioChatAudioEncoderConfig(**AUDIO))
        initialize(self.encoder)
        width = AUDIO["output_dim"]
        self.adapter = nn.Linear(width, width, bias=False)
        self.phone_out = nn.Linear(width, phones + 1)
        self.digit_out = nn.Linear(width, 3 * DIGITS)
        self.embeddings = embeddings

    def encode(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode spectrograms.

        Args:
            mel: [B, mels, M].
            lengths: [B], mel frames before the padding.

        Returns:
            [B, T, width], T a multiple of five, and the lengths [B] in 25 Hz frames.
        """
        items = [item[:, :length] for item, length in zip(mel, lengths.tolist(), strict=True)]
        _, counts = self.encoder._get_feat_extract_output_lengths(lengths)
        total = -(-int(counts.max()) // GROUP_SIZE) * GROUP_SIZE
        encoded = self.encoder(torch.cat(items, dim=1), lengths, speech_maxlen=total)
        return encoded.last_hidden_state, counts

    def adapt(self, vectors: Tensor) -> Tensor:
        """Map vectors [B, T, width] to the language model's input [B, T / 5, width]."""
        return self.adapter(group_means(vectors))

    def read(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Predict log-probabilities of phones [B, T, .] and words [B, T / 5, .] from vectors."""
        directions = F.normalize(self.adapt(vectors), dim=-1)
        by_word = SHARPNESS * directions @ F.normalize(self.embeddings, dim=-1).T
        return self.phone_out(vectors).log_softmax(-1), by_word.log_softmax(-1)

    def distance(self, vectors: Tensor, by_word: Tensor) -> Tensor:
        """Compute the mean squared distance of the adapter's output from its words' embeddings.

        Args:
            vectors: [B, T, width].
            by_word: word output of ``read``.

        Returns:
            The distance relative to the embeddings' mean square.
        """
        found = by_word.argmax(-1)
        away = (self.adapt(vectors) - self.embeddings[found]).square().sum(-1)
        weights = torch.where(found > 0, 1.0, SILENCE_SHARE)
        mean_square = self.embeddings.square().sum(-1).mean()
        return (away * weights).sum() / weights.sum() / mean_square

    def digit_loss(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Compute the cross entropy of the digits of tokens [B, T]; -1 where there is no token."""
        known = tokens >= 0
        scores = self.digit_out(vectors[known]).unflatten(-1, (DIGITS, 3))
        digits = digits_of(tokens[known]).long() + 1
        return F.cross_entropy(scores.flatten(0, 1), digits.flatten())


def group_means(vectors: Tensor) -> Tensor:
    """Average the vectors [B, T, D] of each group: [B, T / 5, D]."""
    return vectors.unflatten(1, (-1, GROUP_SIZE)).mean(2)


def blank_bands(mel: Tensor) -> Tensor:
    """Set random bands of each spectrogram [B, mels, M] to its mean, and add a little noise."""
    mel = mel + 0.02 * torch.randn_like(mel)
    bands = torch.arange(mel.shape[1])
    widest = WIDEST_BAND * mel.shape[1] // 128
    for _ in range(BLANKED_BANDS):
        width = torch.randint(0, widest + 1, (len(mel), 1))
        start = (torch.rand(len(mel), 1) * (mel.shape[1] - width)).long()
        blank = (bands >= start) & (bands < start + width)
        mel = torch.where(blank[..., None], mel.mean((1, 2), keepdim=True), mel)
    return mel


class EncoderRun(Run):
    """The encoder's training.

    Args:
        work: data and checkpoint folder.
        llm: folder of the joint model whose words are predicted.
        steps: length of the schedule.
        teacher: ONNX file of the speech tokenizer.
    """

    model: EncoderTrainer
    peak_rate = 2.5e-3
    hold, last_rate = 0.2, 0.03

    def __init__(self, work: Path, llm: Path, steps: int = 0, teacher: Path = OUTPUT) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(llm)
        self.teacher = open_tokenizer(teacher)
        self.utterances = collect(work)
        self.train_set = [u for u in self.utterances if u.group == "train"]
        phones = sorted({p for u in self.train_set for p in u.phones})
        self.phone_ids = {p: i for i, p in enumerate(phones, 1)}
        # Text -> text tokens of its spoken words.
        self.spoken = {
            text: self.tokenizer("".join(words(text)))["input_ids"]
            for text in {u.text for u in self.utterances}
        }
        self.tokens = sorted({t for u in self.train_set for t in self.spoken[u.text]})
        self.word_ids = {token: i for i, token in enumerate(self.tokens, 1)}
        listener = FunAudioChatForConditionalGeneration.from_pretrained(llm)
        known = torch.tensor([listener.config.text_config.sil_index, *self.tokens])
        torch.manual_seed(0)
        embeddings = listener.get_input_embeddings().weight.detach()[known]
        model = EncoderTrainer(len(phones), embeddings)
        optimizer = torch.optim.AdamW(
            model.parameters(), self.peak_rate, betas=(0.9, 0.98), weight_decay=0.05
        )
        super().__init__(work / "encoder.pt", model, optimizer, steps)

    def batches(self, epoch: int) -> Iterator[list[Utterance]]:
        return batches(self.train_set, epoch)

    @property
    def draw_from(self) -> int:
        """The step from which outputs are drawn towards the embeddings of their words."""
        return int(DRAW_FROM * self.state["steps"])

    def train_step(self, batch: list[Utterance]) -> dict[str, float]:
        if self.state["step"] == self.draw_from:
            self.scale_adapter()
        return super().train_step(batch)

    def losses(self, batch: list[Utterance]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute CTC of phones and words, cross entropy of digits and distance of words."""
        mel, lengths, phones, phone_lengths, _ = collate(batch, self.phone_ids, [])
        vectors, counts = self.model.encode(blank_bands(mel), lengths)
        speech_tokens = torch.full(vectors.shape[:2], -1)
        for row, item, frames in zip(speech_tokens, mel, lengths.tolist(), strict=True):
            found = torch.tensor(tokens_of_mel(self.teacher, item[:, :frames]))[: len(row)]
            row[: len(found)] = found
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
        parts = {
            "ctc_phones": phone_loss,
            "ctc_words": word_loss,
            "digits": self.model.digit_loss(vectors, speech_tokens),
            "distance": self.model.distance(vectors, by_word),
        }
        drawn = DRAW_WEIGHT * (self.state["step"] >= self.draw_from)
        weights = {"digits": DIGIT_WEIGHT, "distance": drawn}
        weighted = [weights.get(name, 1) * loss for name, loss in parts.items()]
        return torch.stack(weighted).sum(), parts

    @torch.no_grad()
    def scale_adapter(self) -> None:
        """Scale the adapter so that its output is as long as the embeddings of its words."""
        ratios = []
        for utterance in self.train_set[:: max(1, len(self.train_set) // EVALUATED)]:
            mel, lengths, *_ = collate([utterance], self.phone_ids, [])
            vectors, _ = self.model.encode(mel, lengths)
            heard = self.model.embeddings[self.model.read(vectors)[1][0].argmax(-1)]
            given = self.model.adapt(vectors)
            ratios.append(heard.norm(dim=-1).mean() / given.norm(dim=-1).mean())
        self.model.adapter.weight *= torch.stack(ratios).mean()

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute phone and word error rates on the held-out sets."""
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
                phones = best_path(by_phone[0, : int(counts)])
                heard[0].append("".join(symbol[i] for i in phones))
                tokens = [self.tokens[i - 1] for i in best_path(by_word[0])]
                heard[1].append(self.tokenizer.decode(tokens))
            said = [u.phones for u in chosen]
            written = [self.tokenizer.decode(self.spoken[u.text]) for u in chosen]
            result[name] = {
                "phone_error_percent": round(100 * jiwer.cer(said, heard[0]), 2),
                "word_error_percent": round(100 * jiwer.wer(written, heard[1]), 2),
            }
        return result


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the mel encoder to recognise words.")
    parser.add_argument(
        "--llm",
        type=Path,
        default=Path("models/prealign"),
        help="joint model whose words are predicted, relative to the data folder",
    )
    args = parse(parser, steps=6000)
    EncoderRun(args.work, args.work / args.llm, args.steps).train()


if __name__ == "__main__":
    main()
