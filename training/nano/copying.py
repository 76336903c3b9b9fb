# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Give an untrained language model the circuit that copies text.

Nearly every answer repeats something of its question, and a transcript is nothing else. A language
model copies with induction heads (Olsson et al., "In-context learning and induction heads",
arXiv:2209.11895): a head of an early layer notes at every token which token precedes it, and heads
of a later layer look up where the current token occurred before and read what followed it there.
Small models need millions of tokens to find this circuit by gradient descent. Here, the first two
layers begin with it, and training only has to refine it.
"""

import math

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

# Positions of the previous-token head's rotary pairs, fast enough to tell neighbours apart.
NEAR_PAIRS = range(4)
# Positions by which its queries look back. More than one, so that across a pause the word before
# attracts more attention than the token itself.
LOOK_BACK = 1.2
# Factor on normalised queries and keys: attention is sharp from the start.
SHARPNESS = 2.2
# Strength of what was copied beside the current token in the residual stream.
COPIED_GAIN = 0.5
# Weight of not being silence beside the match of the tokens.
WORD_WEIGHT = 1.2
DEVIATION = 0.02


def _orthonormal(rows: int, width: int) -> Tensor:
    return torch.linalg.qr(torch.randn(width, rows))[0].T


@torch.no_grad()
def begin_with_copying(model: Qwen3ForCausalLM, silence_token: int) -> None:
    """Initialise a Qwen3 backbone with heads that copy text.

    The last dimensions of the residual stream are reserved: half a head's width for the token
    before, and one that is equal for all tokens but silence. Words are found across silence as the
    previous-token head does not see it.

    Args:
        model: a backbone with at least two layers and tied embeddings.
        silence_token: token between the words of audio, which is not copied.
    """
    config = model.config
    width, head, layers = config.hidden_size, config.head_dim, config.num_hidden_layers
    matched, constant = head // 2, width - 1
    content = width - 1 - matched  # dimensions that tell tokens apart
    before = slice(content, constant)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.normal_(std=DEVIATION / math.sqrt(2 * layers))
        else:
            weight.normal_(std=DEVIATION)
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(std=width**-0.5)
    embeddings[:, before] = 0.0
    embeddings[:, constant] = math.sqrt(matched / width)
    embeddings[silence_token, constant] *= -1
    signature = _orthonormal(matched, content)
    _previous_token(model, signature, before, constant)
    _induction(model, signature, before, constant)


def _previous_token(
    model: Qwen3ForCausalLM, signature: Tensor, before: slice, constant: int
) -> None:
    """Let the first two query heads of layer 0 write the signature of the token before."""
    attention, head = model.model.layers[0].self_attn, model.config.head_dim
    frequencies = model.model.rotary_emb.inv_freq.tolist()
    matched, content = signature.shape
    queries, keys = attention.q_proj.weight, attention.k_proj.weight
    queries[: 2 * head], keys[:head], attention.v_proj.weight[:head] = 0.0, 0.0, 0.0
    for pair in NEAR_PAIRS:
        keys[pair, constant] = 1.0
        angle = LOOK_BACK * frequencies[pair]
        for first in (0, head):
            queries[first + pair, constant] = math.cos(angle)
            queries[first + head // 2 + pair, constant] = -math.sin(angle)
    attention.v_proj.weight[:matched, :content] = signature
    attention.o_proj.weight[:, : 2 * head] = 0.0
    # Twice as strong as the same dimensions of a token's own embedding would be.
    gain = 2 * math.sqrt(content / matched / model.config.hidden_size)
    attention.o_proj.weight[before, :matched] = gain * torch.eye(matched)
    attention.q_norm.weight.fill_(SHARPNESS)
    attention.k_norm.weight.fill_(SHARPNESS)


def _induction(model: Qwen3ForCausalLM, signature: Tensor, before: slice, constant: int) -> None:
    """Let one query head for every key-value head of layer 1 copy the token after a match."""
    attention, head = model.model.layers[1].self_attn, model.config.head_dim
    groups = attention.k_proj.out_features // head
    shared = attention.q_proj.out_features // head // groups
    matched, content = signature.shape
    # The slower half of the rotary pairs hardly turns, so that only the tokens decide.
    slow = [*range(head // 4, head // 2), *range(head // 2 + head // 4, head)]
    values = _orthonormal(groups * head, content)
    queries, keys = attention.q_proj.weight, attention.k_proj.weight
    for group in range(groups):
        key, query = group * head, group * shared * head
        keys[key : key + head], queries[query : query + head] = 0.0, 0.0
        for number, dimension in enumerate(slow[:-1]):
            keys[key + dimension, before.start + number] = 1.0
            queries[query + dimension, :content] = signature[number]
        keys[key + slow[-1], constant] = queries[query + slow[-1], constant] = WORD_WEIGHT
        read = values[key : key + head]
        attention.v_proj.weight[key : key + head] = 0.0
        attention.v_proj.weight[key : key + head, :content] = read
        attention.o_proj.weight[:, query : query + head] = 0.0
        attention.o_proj.weight[:content, query : query + head] = COPIED_GAIN * read.T
    attention.q_norm.weight.fill_(SHARPNESS)
    attention.k_norm.weight.fill_(SHARPNESS)
