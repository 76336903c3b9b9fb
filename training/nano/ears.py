# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The ears: Whisper's encoder and the adapter, with the branches used to train them.

Shapes: ``B`` recordings, ``T`` 25 Hz positions, ``G`` 5 Hz positions, ``W`` words and silence,
``D`` width of the language model.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.configuration_funaudiochat import FunAudioChatAudioEncoderConfig
from funaudiochat.modeling_funaudiochat import FunAudioChatAudioEncoder
from training.nano.features import whisper_mel
from training.nano.judge import whisper_folder
from training.nano.sizes import GROUP_SIZE, whisper_audio
from training.nano.train_encoder import group_means
from training.nano.train_tokenizer import best_path
from training.whisper_encoder import TOWER, WhisperEncoder, read_whisper

PACKAGED = "packaged"  # instead of a Whisper folder: tiny.en from the judge's package
CHARACTERS = "abcdefghijklmnopqrstuvwxyz' "  # preceded by CTC's blank
# A word's logit is the cosine between its embedding and the audio's vector, times this. The larger,
# the farther from its embedding a vector can be and still be read as the word.
SHARPNESS = 12.0
# Weight of silence in the distance loss: it is by far the most frequent symbol.
SILENCE_SHARE = 0.3
# Learning rate of the topmost layer relative to new parameters, and of each layer relative to the
# layer above it.
TOP_SHARE, FALL = 0.3, 0.4


class Ears(nn.Module):
    """Mel encoder and adapter, read as characters at 25 Hz and as words at 5 Hz.

    Args:
        whisper: sizes and initial weights of the encoder; without weights, they are random.
        width: D.
        embeddings: [W, D] of silence, which is the blank, and the words; None to read no words.
        centre: [D], the mean of all embeddings of the language model, the origin for angles: it
            accounts for most of the length of every embedding.
    """

    def __init__(
        self,
        whisper: WhisperEncoder,
        width: int,
        embeddings: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> None:
        super().__init__()
        config = FunAudioChatAudioEncoderConfig(**whisper_audio(whisper.sizes, width))
        self.encoder = FunAudioChatAudioEncoder(config)
        given = {k.removeprefix(TOWER): tensor.float() for k, tensor in whisper.weights.items()}
        self.encoder.load_state_dict(given, strict=False)
        self.pretrained = bool(given)
        nn.init.normal_(self.encoder.proj.weight, std=config.d_model**-0.5)
        nn.init.zeros_(self.encoder.proj.bias)
        self.adapter = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.adapter.weight, std=width**-0.5)
        self.characters = nn.Linear(width, len(CHARACTERS) + 1)
        self.embeddings, self.centre = embeddings, centre

    def groups(self) -> list[dict[str, Any]]:
        """Group parameters by their ``share`` of the learning rate, lower in lower layers.

        New parameters learn at the full rate. Lower layers hold what Whisper learned from real
        speakers, which training on synthetic speech would erase. Without Whisper's weights, all
        parameters are new.
        """
        layers = len(self.encoder.layers)
        by_share: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            share = 1.0
            taken = name.startswith("encoder.") and not name.startswith("encoder.proj.")
            if taken and self.pretrained:
                found = re.search(r"\.layers\.(\d+)\.", f".{name}")
                below = layers - 1 - int(found[1]) if found else 0 if "ln_post" in name else layers
                share = TOP_SHARE * FALL**below
            by_share.setdefault(share, []).append(parameter)
        return [{"params": found, "share": share} for share, found in by_share.items()]

    def mel(self, waveform: Tensor) -> Tensor:
        """Compute the spectrogram [mels, M] of a 16 kHz waveform [S]."""
        return whisper_mel(waveform, self.encoder.config.num_mel_bins)

    def encode(self, mels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Encode spectrograms [mels, M] to vectors [B, T, D] in whole groups, and lengths [B]."""
        lengths = torch.tensor([mel.shape[1] for mel in mels])
        _, counts = self.encoder._get_feat_extract_output_lengths(lengths)
        total = -(-int(counts.max()) // GROUP_SIZE) * GROUP_SIZE
        encoded = self.encoder(torch.cat(mels, dim=1), lengths, speech_maxlen=total)
        return encoded.last_hidden_state, counts

    def read_characters(self, vectors: Tensor) -> Tensor:
        """Map [B, T, D] to log-probabilities [B, T, characters + 1]."""
        return self.characters(vectors).float().log_softmax(-1)

    def adapt(self, vectors: Tensor) -> Tensor:
        """Map vectors [B, T, D] to the language model's input [B, G, D]."""
        return self.adapter(group_means(vectors)).float()

    def _words(self) -> tuple[Tensor, Tensor]:
        """Return the word embeddings [W, D] and their centre [D], which reading words needs."""
        assert self.embeddings is not None and self.centre is not None, "built without words"
        return self.embeddings, self.centre

    def read_words(self, adapted: Tensor) -> Tensor:
        """Map [B, G, D] to log-probabilities of silence and the words [B, G, W]."""
        embeddings, centre = self._words()
        known = F.normalize(embeddings - centre, dim=-1)
        heard = F.normalize(adapted - centre, dim=-1)
        return (SHARPNESS * heard @ known.T).log_softmax(-1)

    def length_error(self, adapted: Tensor) -> Tensor:
        """Compare lengths of vectors [B, G, D] with those of embeddings, from the centre."""
        embeddings, centre = self._words()
        wanted = (embeddings - centre).norm(dim=-1).mean()
        return ((adapted - centre).norm(dim=-1) / wanted - 1).square().mean()

    def distance(self, adapted: Tensor, by_word: Tensor, counts: Tensor) -> Tensor:
        """Compute the mean squared distance from the embeddings of the words read.

        Args:
            adapted: [B, G, D].
            by_word: output of ``read_words``.
            counts: [B], 5 Hz positions before the padding.

        Returns:
            The distance relative to the embeddings' mean square.
        """
        found, (embeddings, _) = by_word.argmax(-1), self._words()
        away = (adapted - embeddings[found]).square().sum(-1)
        weights = torch.where(found > 0, 1.0, SILENCE_SHARE)
        weights = weights * (torch.arange(found.shape[1]) < counts[:, None])
        return (away * weights).sum() / weights.sum() / embeddings.square().sum(-1).mean()

    @torch.no_grad()
    def scale_adapter(self, mels: list[Tensor]) -> None:
        """Scale the adapter so that its output for these spectrograms is as long as embeddings."""
        given = self.adapt(self.encode(mels)[0]).norm(dim=-1).mean()
        self.adapter.weight *= self._words()[0].norm(dim=-1).mean() / given

    @torch.no_grad()
    def hear(self, waveform: Tensor) -> str:
        """Transcribe a 16 kHz waveform [S] character by character, without a language model."""
        vectors, counts = self.encode([self.mel(waveform)])
        path = best_path(self.read_characters(vectors)[0, : int(counts)])
        return " ".join("".join(CHARACTERS[i - 1] for i in path).split())


def open_whisper(source: str) -> WhisperEncoder:
    """Read Whisper's encoder from a folder, or from the judge's package (``packaged``)."""
    return read_whisper(whisper_folder() if source == PACKAGED else Path(source))


def load_ears(path: Path, source: str = PACKAGED) -> Ears:
    """Load the ears from a checkpoint of ``train_ears``, without the branch that reads words."""
    weights = torch.load(path, weights_only=True)["model"]
    ears = Ears(open_whisper(source), len(weights["adapter.weight"]))
    ears.load_state_dict(weights)
    return ears.eval()


def character_ids(text: str) -> list[int]:
    """Map a text, normalised by ``sentences.plain``, to its CTC symbols."""
    return [CHARACTERS.index(c) + 1 for c in text]
