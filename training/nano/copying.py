# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Give an untrained language model the circuit that copies text.

Nearly every answer repeats something of its question, and a transcript is nothing else. A language
model copies with induction heads (Olsson et al., "In-context learning and induction heads",
arXiv:2209.11895): a head of an early layer notes at every token which token precedes it, and heads
of a later layer look up where the current token occurred before and read what followed it there.
Small models need millions of tokens to find this circuit by gradient descent. Here, the first three
layers begin with it, and training only has to refine it.

In audio, words are separated by silence tokens, which have to be skipped. So the first layer notes
at every token which word is the latest, itself or the last one before the silence; the second
copies that note from the position before; and the third looks words up by it.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3ForCausalLM

# Layers that the circuit takes.
LATEST, BEFORE, LOOK_UP = range(3)
# Rotary pairs that tell neighbours apart, and those that prefer the nearest of more distant tokens,
# as they do not turn once within a pause.
NEAR_PAIRS, FAR_PAIRS = range(4), range(1, 5)
# Factor on normalised queries and keys: attention is sharp from the start.
SHARPNESS = 3.0
# Strength of a note, and of what was copied, beside the current token in the residual stream.
NOTE_GAIN, COPIED_GAIN = 4.0, 0.5
# Weight of not being silence beside the match of the tokens.
WORD_WEIGHT = 0.8
DEVIATION = 0.02
# Part of the embeddings of tokens that are alike, as a share of their squared length.
SHARED = 0.8
# Part of the embeddings that is the meaning of words, as a share of their squared length. Copying
# does not read it, since it has to tell words of similar meaning apart.
MEANING = 0.4
# Factors on the residual stream and on the circuit's queries and keys. RMS norms undo them, but
# AdamW moves all weights by the same amount, and the first hundred steps would erase small ones.
STREAM_SCALE, MATCH_SCALE = 4.0, 8.0


def _orthonormal(rows: int, width: int) -> Tensor:
    return torch.linalg.qr(torch.randn(width, rows))[0].T


class _Stream:
    """Reserved dimensions of the residual stream.

    Attributes:
        matched: dimensions of a note.
        identity: number of dimensions that tell tokens apart, the first of all; they are copied.
        meaning: dimensions of the meanings of words.
        latest, before: dimensions of the notes on the latest word and on the one before it.
        word: dimension that is negative for silence.
        any: dimension that is equal for all tokens.
    """

    def __init__(self, width: int, head: int, copied: int) -> None:
        self.matched, self.identity = head // 2, copied
        self.meaning = slice(self.identity, width - 2 - 2 * self.matched)
        self.latest = slice(self.meaning.stop, self.meaning.stop + self.matched)
        self.before = slice(self.latest.stop, width - 2)
        self.word, self.any = width - 2, width - 1


@torch.no_grad()
def begin_with_copying(
    model: Qwen3ForCausalLM,
    silence_token: int,
    alike: Iterable[list[int]] = (),
    meanings: Callable[[int], tuple[list[int], Tensor]] | None = None,
) -> None:
    """Initialise a Qwen3 backbone with heads that copy text.

    Args:
        model: a backbone with at least three layers and tied embeddings.
        silence_token: token between the words of audio, which is not copied.
        alike: groups of tokens with similar embeddings, one of which can be looked up by another.
        meanings: given a width, returns tokens and the unit vectors [tokens, width] of what they
            mean.
    """
    config = model.config
    width, layers = config.hidden_size, config.num_hidden_layers
    copied = model.model.layers[LOOK_UP].self_attn.v_proj.out_features
    stream = _Stream(width, config.head_dim, copied)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.normal_(std=DEVIATION / math.sqrt(2 * layers))
        else:
            weight.normal_(std=DEVIATION)
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(std=width**-0.5)
    for tokens in alike:
        shared = torch.randn(width) * width**-0.5
        embeddings[tokens] = SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * embeddings[tokens]
    if meanings:
        tokens, vectors = meanings(stream.meaning.stop - stream.meaning.start)
        shares = embeddings[tokens, : stream.meaning.stop].norm(dim=1, keepdim=True)
        identity = F.normalize(embeddings[tokens, : stream.identity], dim=1)
        embeddings[tokens, : stream.identity] = (1 - MEANING) ** 0.5 * shares * identity
        embeddings[tokens, stream.meaning] = MEANING**0.5 * shares * vectors
    embeddings[:, stream.meaning.stop :] = 0.0
    embeddings[:, [stream.word, stream.any]] = math.sqrt(stream.matched / width)
    embeddings[silence_token, stream.word] *= -1
    signature = torch.zeros(stream.matched, width)
    signature[:, : stream.identity] = _orthonormal(stream.matched, stream.identity)
    noted = torch.eye(width)[stream.latest]
    _note(model, stream, LATEST, FAR_PAIRS, 0, stream.word, signature, stream.latest, NOTE_GAIN)
    _note(model, stream, BEFORE, NEAR_PAIRS, 1, stream.any, noted, stream.before, 1.0)
    _look_up(model, signature, stream)
    embeddings *= STREAM_SCALE
    model.model.norm.weight.div_(STREAM_SCALE)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= STREAM_SCALE
        layer.mlp.down_proj.weight *= STREAM_SCALE


def _note(
    model: Qwen3ForCausalLM, stream: _Stream, layer: int, pairs: range, look_back: int, wanted: int,
    read: Tensor, to: slice, gain: float,
) -> None:  # fmt: skip
    """Let the first two query heads of a layer note what they read at a position near by.

    Args:
        model: the backbone.
        stream: its reserved dimensions.
        layer: number of the layer.
        pairs: rotary pairs by which positions are told apart.
        look_back: distance of the position; the nearest one that is wanted.
        wanted: dimension that is positive for tokens to attend to.
        read: projection [matched, width] that is noted.
        to: dimensions to write it to.
        gain: of what is written, as a multiple of what is read of an embedding.
    """
    attention, head = model.model.layers[layer].self_attn, model.config.head_dim
    frequencies = model.model.rotary_emb.inv_freq.tolist()
    queries, keys = attention.q_proj.weight, attention.k_proj.weight
    queries[: 2 * head], keys[:head], attention.v_proj.weight[:head] = 0.0, 0.0, 0.0
    for pair in pairs:
        keys[pair, wanted] = MATCH_SCALE
        angle = look_back * frequencies[pair]
        for first in (0, head):
            queries[first + pair, stream.any] = MATCH_SCALE * math.cos(angle)
            queries[first + head // 2 + pair, stream.any] = -MATCH_SCALE * math.sin(angle)
    attention.v_proj.weight[: len(read)] = read
    attention.o_proj.weight[:, : 2 * head] = 0.0
    attention.o_proj.weight[to, : len(read)] = (
        gain * model.config.hidden_size**-0.5 * torch.eye(len(read))
    )
    attention.q_norm.weight.fill_(SHARPNESS)
    attention.k_norm.weight.fill_(SHARPNESS)


def _look_up(model: Qwen3ForCausalLM, signature: Tensor, stream: _Stream) -> None:
    """Let one query head for every key-value head copy the word after a match."""
    attention, head = model.model.layers[LOOK_UP].self_attn, model.config.head_dim
    groups = stream.identity // head
    shared = attention.q_proj.out_features // head // groups
    # The slower half of the rotary pairs hardly turns, so that only the tokens decide.
    slow = [*range(head // 4, head // 2), *range(head // 2 + head // 4, head)]
    values = _orthonormal(stream.identity, stream.identity)
    queries, keys = attention.q_proj.weight, attention.k_proj.weight
    for group in range(groups):
        key, query = group * head, group * shared * head
        keys[key : key + head], queries[query : query + head] = 0.0, 0.0
        for number, dimension in enumerate(slow[:-1]):
            keys[key + dimension, stream.before.start + number] = MATCH_SCALE
            queries[query + dimension] = MATCH_SCALE * signature[number]
        unlike_silence = MATCH_SCALE * WORD_WEIGHT
        keys[key + slow[-1], stream.word] = unlike_silence
        queries[query + slow[-1], stream.word] = unlike_silence
        read = values[key : key + head]
        attention.v_proj.weight[key : key + head] = 0.0
        attention.v_proj.weight[key : key + head, : stream.identity] = read
        attention.o_proj.weight[:, query : query + head] = 0.0
        attention.o_proj.weight[: stream.identity, query : query + head] = COPIED_GAIN * read.T
    attention.q_norm.weight.fill_(SHARPNESS)
    attention.k_norm.weight.fill_(SHARPNESS)
