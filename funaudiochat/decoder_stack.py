# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Transformer layers for decoding, one position a row, over caches that are allocated once.

A prompt runs through the transformer's own forward; what that leaves in its cache is taken over
without padding, so that every row of a batch stands at a place of its own and no mask is needed.
Where no row is padded, ``known_prompt`` writes the caches by itself. Batches of different lengths
can be run together for any number of positions.

Shapes: ``B`` rows, ``D`` width, ``N`` query heads, ``K`` key heads, ``S`` head size, ``L`` prompt
length, ``P`` positions that a cache has room for.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from funaudiochat import cuda_graph, decoder_kernel
from funaudiochat.compact_weights import CompactLinear
from funaudiochat.modeling_common import cache_argument
from funaudiochat.prompt_blocks import PRODUCT_BLOCKS, Blocks, PromptBlock, block_size, spans

log = logging.getLogger(__name__)
SPARE_POSITIONS = 256  # of a new cache beyond the prompt; a full one doubles
_KNOWN = ("qwen3", "llama", "qwen3_moe")
_CHANGING_ROTARY = ("dynamic", "longrope")  # whose table depends on the length


Linear = nn.Linear | CompactLinear


class Positions(Protocol):
    """The cached positions of a batch's rows, and their next position."""

    @property
    def row_count(self) -> int:
        """B."""

    def advance(self, hidden: Tensor) -> Tensor:
        """Run one more position of every row: [B, D] -> [B, D] after the final norm."""


def advance_together(batches: Sequence[Positions], hidden: Tensor) -> Tensor:
    """Run one more position of every row of several batches.

    A row gets what it gets alone, whichever others run beside it, so batches may meet and part
    between any two positions.

    Args:
        batches: of the same transformer, one after another in ``hidden``.
        hidden: [rows of all, D].

    Returns:
        [rows of all, D], after the final norm.
    """
    if len(batches) == 1:
        return batches[0].advance(hidden)
    static = [x for x in batches if isinstance(x, _StaticPositions)]
    if len(static) == len(batches) and len({id(x.layers) for x in static}) == 1:
        return _advance_static(static, hidden)
    rows = hidden.split([x.row_count for x in batches])
    return torch.cat([x.advance(own) for x, own in zip(batches, rows, strict=True)])


def follow(transformer: Any, cache: DynamicCache, mask: Tensor | None) -> Positions:
    """Continue decoding after a prompt.

    Args:
        transformer: the module whose forward filled the cache; one whose layers are not known
            here continues with that forward.
        cache: of the prompt [B, L]; do not use it afterwards.
        mask: [B, L], rows padded on the left; None if no row is.
    """
    layers = _layers_of(transformer)
    if layers is None:
        return _OwnForward(transformer, cache, mask)
    return _StaticPositions.of_cache(layers, cache, mask)


@dataclass(frozen=True)
class Prefix:
    """The first positions of a prompt, which an earlier run has read.

    Attributes:
        positions: of one row; the new run overwrites those behind the prefix and continues.
        length: number of positions in the prefix.
    """

    positions: Positions
    length: int

    def cache(self) -> DynamicCache:
        """Return a copy of its keys and values, for a transformer's own forward."""
        assert isinstance(self.positions, _StaticPositions)
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.positions.caches):
            cache.update(keys[:, :, : self.length], values[:, :, : self.length], index)
        return cache

    def followed(self, cache: DynamicCache) -> Positions:
        """Take over what a forward has added to :meth:`cache`."""
        assert isinstance(self.positions, _StaticPositions)
        layers: Any = cache.layers
        length = layers[0].keys.shape[2]
        self.positions.move_to(length)
        for layer, pair in zip(layers, self.positions.caches, strict=True):
            for new, old in zip(pair, (layer.keys, layer.values), strict=True):
                new[:, :, self.length : length] = old[:, :, self.length :]
        return self.positions


def reusable(transformer: Any, positions: Positions) -> bool:
    """Return whether a later prompt can continue from positions of an earlier run."""
    return (
        isinstance(positions, _StaticPositions)
        and positions.row_count == 1
        and _layers_of(transformer) is positions.layers
    )


def known_prompt(
    transformer: Any, hidden: Tensor, prefix: Prefix | None = None
) -> Blocks[tuple[Tensor, Positions]] | None:
    """Run a prompt without padding, in blocks and only as far as decoding needs it.

    Args:
        transformer: the module to run.
        hidden: [B, L, D].
        prefix: what stands before these positions.

    Returns:
        The blocks, whose result is the last position after the final norm [B, D] and the
        positions to continue from; None where only the transformer's own forward can run it.
    """
    layers = _layers_of(transformer)
    if layers is None or not layers.dense or hidden.dtype != torch.float32:
        return None
    return _known_prompt(layers, hidden, prefix)


@dataclass
class _Layer:
    """Weights of one layer, joined where they are multiplied by the same vector."""

    attention_norm: Tensor
    qkv: Linear  # [(N + 2 K) S, D]
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: Linear
    mlp_norm: Tensor
    mlp: Any
    gate_up: Linear | None  # [2 inner, D]; None for a mixture of experts, which `mlp` runs


class _Layers:
    """The layers of a transformer of a known kind, and the rotary table they share.

    The joined weights are the modules' own: their parameters become views of them.
    """

    def __init__(self, transformer: Any) -> None:
        config, first = transformer.config, transformer.layers[0].self_attn
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size, self.scaling = first.head_dim, first.scaling
        self.epsilon = config.rms_norm_eps
        self.norm, self.rotary = transformer.norm.weight.detach(), transformer.rotary_emb
        self.layers = [_joined(layer) for layer in transformer.layers]
        parts = [*transformer.parameters(), *transformer.buffers()]
        self._places = [(part, part.data_ptr()) for part in parts]
        self._table: tuple[Tensor, Tensor] | None = None
        self.dense = all(
            x.gate_up is not None
            and all(y.bias is None for y in (x.gate_up, x.qkv, x.out, x.mlp.down_proj))
            for x in self.layers
        )  # fmt: skip
        on_cpu = self.norm.device.type == "cpu" and self.norm.dtype == torch.float32
        self.kernel: Any = decoder_kernel.kernel() if self.dense and on_cpu else None
        # A mixture of experts asks the host which experts run.
        without_host = all(x.gate_up is not None for x in self.layers)
        self.captures = without_host and cuda_graph.available(self.norm.device)
        if self.captures:
            log.info(
                "%s: decoding positions are replayed as CUDA graphs", type(transformer).__name__
            )
        self._stack: decoder_kernel.Stack | None = None

    @property
    def in_place(self) -> bool:
        """Whether the parameters are still views of the joined weights; moving a module ends it."""
        return all(part.data_ptr() == place for part, place in self._places)

    def table(self, positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [P, S] of at least so many positions."""
        if self._table is None or len(self._table[0]) < positions:
            places = torch.arange(positions, device=self.norm.device)
            cosine, sine = self.rotary(self.norm[None, None], places[None])
            self._table = cosine[0].contiguous(), sine[0].contiguous()
        return self._table

    def normal(self, x: Tensor, weight: Tensor) -> Tensor:
        """Normalise [*, width of the weight] by its root mean square."""
        return F.rms_norm(x, weight.shape, weight, self.epsilon)

    def projected(
        self, layer: _Layer, hidden: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [*, N, S], keys and values [*, K, S], rotated by angles [*, 1, S]."""
        qkv = layer.qkv(self.normal(hidden, layer.attention_norm))
        parts = qkv.unflatten(-1, (-1, self.head_size))
        query, key, value = parts.split([self.heads, self.key_heads, self.key_heads], -2)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = self.normal(query, layer.query_norm), self.normal(key, layer.key_norm)
        return _rotated(query, cosine, sine), _rotated(key, cosine, sine), value

    def after_attention(self, layer: _Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """Add the attended values [*, N S] and the layer's second half to its input [*, D]."""
        hidden = hidden + layer.out(attended)
        inner = self.normal(hidden, layer.mlp_norm)
        if layer.gate_up is not None:
            gate, up = layer.gate_up(inner).chunk(2, -1)
            return hidden + layer.mlp.down_proj(F.silu(gate) * up)
        added = layer.mlp(inner[:, None])
        return hidden + (added[0] if isinstance(added, tuple) else added)[:, 0]

    def stack(self, positions: int) -> decoder_kernel.Stack:
        """Return what the kernel reads, for rows of at most so many positions."""
        table = self.table(positions)
        if self._stack is not None and self._stack.table is table:
            return self._stack
        matrix, address = decoder_kernel.Matrix.of, decoder_kernel.address
        layers = [  # the kernel is there only where every layer has these weights
            decoder_kernel.Layer(
                *map(matrix, (x.qkv, x.out, x.gate_up, x.mlp.down_proj)),
                *map(address, (x.attention_norm, x.mlp_norm, x.query_norm, x.key_norm)),
            )
            for x in self.layers
        ]
        stack = decoder_kernel.Stack(
            (decoder_kernel.Layer * len(layers))(*layers),
            *map(address, (self.norm, *table)),
            len(layers), len(self.norm), self.heads, self.key_heads, self.head_size,
            self.epsilon, self.scaling,
        )  # fmt: skip
        stack.table = table
        self._stack = stack
        return stack


def _joined(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    gates = [mlp.gate_proj, mlp.up_proj] if hasattr(mlp, "gate_proj") else []
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (None if x is None else x.weight.detach() for x in norms)
    return _Layer(
        attention_norm=layer.input_layernorm.weight.detach(),
        qkv=_joined_linear(projections),
        query_norm=query_norm,
        key_norm=key_norm,
        out=attention.o_proj,
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        mlp=mlp,
        gate_up=_joined_linear(gates) if gates else None,
    )


def _joined_linear(parts: list[Any]) -> Linear:
    """Return one layer for several of the same input, whose parameters become views of its own."""
    weight = _join([x.weight for x in parts])
    bias = None if parts[0].bias is None else _join([x.bias for x in parts])
    if isinstance(parts[0], CompactLinear):
        scale = None if parts[0].scale is None else _join([x.scale for x in parts])
        return CompactLinear(weight, scale, bias)
    joined = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        joined.bias = nn.Parameter(bias, requires_grad=False)
    return joined


def _join(parts: list[Any]) -> Tensor:
    """Stack tensors into one, of which they become views."""
    joined = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, joined.split([len(x) for x in parts]), strict=True):
        part.data = view
    return joined


_found: WeakKeyDictionary[Any, _Layers] = WeakKeyDictionary()
_finding = threading.Lock()


def _layers_of(transformer: Any) -> _Layers | None:
    """Return the transformer's layers, None if only its own forward can run it as it is."""
    with _finding:
        layers = _found.get(transformer)
        if layers is None or not layers.in_place:
            if not _is_known(transformer):
                return None
            layers = _found[transformer] = _Layers(transformer)
    return None if torch.is_autocast_enabled(layers.norm.device.type) else layers


def _is_known(transformer: Any) -> bool:
    config, tensors = transformer.config, [*transformer.parameters()]
    rotary = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in _KNOWN
        and type(transformer).__module__.startswith("transformers.")
        and config.hidden_act == "silu"
        and rotary.get("rope_type", "default") not in _CHANGING_ROTARY
        and "sliding_attention" not in (getattr(config, "layer_types", None) or ())
        # Adapters, quantised weights and parts that are moved to and fro have modules of their own.
        and not any(hasattr(x, "_hf_hook") for x in transformer.modules())
        and all(
            type(x) in (nn.Linear, CompactLinear)
            for layer in transformer.layers
            for x in _products(layer)
        )
        and len({(x.device, x.dtype) for x in tensors}) == 1
        and all(x.device.type != "meta" and x.numel() for x in tensors)
    )


def _products(layer: Any) -> list[nn.Module]:
    """Return the modules of a layer whose weights are used directly."""
    parts = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return [parts[name] for name in names if name in parts]


class _StaticPositions:
    """Positions of known layers."""

    def __init__(self, layers: _Layers, starts: list[int], length: int) -> None:
        """Make room for rows of a prompt of so many positions that start at these."""
        self.layers, weight = layers, layers.norm
        self._ragged = len(set(starts)) > 1
        self.lengths = length - torch.tensor(starts, device=weight.device)  # [B]
        self._row_index = torch.arange(len(starts), device=weight.device)
        self.longest = length - min(starts)
        self.room = self.longest + SPARE_POSITIONS
        shape = len(starts), layers.key_heads, self.room, layers.head_size
        self.caches = [[weight.new_zeros(shape) for _ in range(2)] for _ in layers.layers]
        self.rows = self._kernel_rows()
        self.graph: _PositionGraph | None = None

    @classmethod
    def of_cache(
        cls, layers: _Layers, cache: DynamicCache, mask: Tensor | None
    ) -> _StaticPositions:
        """Copy keys and values [B, K, P, S] without padding; release the originals."""
        prompt: Any = cache.layers
        rows, _, length, _ = prompt[0].keys.shape
        starts = [0] * rows if mask is None else (mask == 0).sum(1).tolist()
        made = cls(layers, starts, length)
        for layer, pair in zip(prompt, made.caches, strict=True):
            for new, old in zip(pair, (layer.keys, layer.values), strict=True):
                for row, start in enumerate(starts):
                    new[row, :, : length - start] = old[row, :, start:]
            layer.keys = layer.values = None
        return made

    def _grow(self) -> None:
        self.room *= 2
        for pair in self.caches:
            for index, old in enumerate(pair):
                pair[index] = old.new_zeros(*old.shape[:2], self.room, old.shape[3])
                pair[index][:, :, : old.shape[2]] = old
        self.rows = self._kernel_rows()

    def _kernel_rows(self) -> list[decoder_kernel.Row]:
        if self.layers.kernel is None:
            return []
        address = decoder_kernel.address
        caches = [cache for pair in self.caches for cache in pair]
        return [
            decoder_kernel.Row(
                (ctypes.c_void_p * len(caches))(*(address(cache[row]) for cache in caches)),
                address(self.lengths[row]),
                self.room,
            )
            for row in range(self.row_count)
        ]

    @property
    def row_count(self) -> int:
        return len(self.lengths)

    def advance(self, hidden: Tensor) -> Tensor:
        return _advance_static([self], hidden)

    def make_room(self, positions: int) -> None:
        """See to it that the caches have room for so many more positions."""
        while self.longest + positions > self.room:
            self._grow()

    def count(self, positions: int) -> None:
        """Count the positions that were written."""
        self.lengths += positions
        self.longest += positions

    def move_to(self, length: int) -> None:
        """Continue behind so many positions, with room for them."""
        self.longest = length
        self.lengths.fill_(length)
        self.make_room(1)

    def mask(self) -> Tensor | None:
        """Return which positions each row sees with the next one, None if it is all of them."""
        if not self._whole_room and not self._ragged:
            return None
        seen = self.caches[0][0].shape[2] if self._whole_room else self.longest + 1
        places = torch.arange(seen, device=self.lengths.device)
        return (places <= self.lengths[:, None])[:, None, None]

    @property
    def _whole_room(self) -> bool:
        """Whether all of the caches is attended to, so that a captured step serves any length."""
        return self.layers.captures or torch.compiler.is_compiling()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Write keys and values [B, K, S] of the next position; attend: [B, N, S] -> [B, N S]."""
        index, (keys, values) = self._row_index, self.caches[layer]
        keys[index, :, self.lengths] = key
        values[index, :, self.lengths] = value
        if not self._whole_room:
            keys, values = keys[:, :, : self.longest + 1], values[:, :, : self.longest + 1]
        # Heads that share keys stand where a prompt has its positions, so no key is copied.
        shared = query.unflatten(1, (self.layers.key_heads, -1))
        attended = F.scaled_dot_product_attention(
            shared, keys, values, mask, scale=self.layers.scaling
        )
        return attended.flatten(1)


def _known_prompt(
    known: _Layers, hidden: Tensor, prefix: Prefix | None
) -> Blocks[tuple[Tensor, Positions]]:
    rows, length, _ = hidden.shape
    before = 0
    if prefix is None:
        positions = _StaticPositions(known, [0] * rows, length)
    else:
        assert isinstance(prefix.positions, _StaticPositions)
        positions, before = prefix.positions, prefix.length
        positions.move_to(before + length)
    cosine, sine = known.table(positions.room)
    last, part, size = known.layers[-1], hidden, block_size(hidden.device)
    for span in spans(length, PRODUCT_BLOCKS * size):
        # A block is so many positions in all layers, or more of them in some of the layers.
        layers_in_block = -(-len(known.layers) // -(-(span.stop - span.start) // size))
        part, end = hidden[:, span], before + span.stop
        own = slice(before + span.start, end)
        # Without a mask where there is nothing before: that computes the causal half only.
        seen = None if not own.start else _seen(end - own.start, end, hidden.device)
        for index, layer in enumerate(known.layers):
            if index % layers_in_block == 0:
                yield PromptBlock()
            keys, values = positions.caches[index]
            query, key, value = known.projected(layer, part, cosine[own, None], sine[own, None])
            keys[:, :, own], values[:, :, own] = key.transpose(1, 2), value.transpose(1, 2)
            if layer is last:  # nothing follows from the other positions
                if span.stop < length:
                    break
                query, part, seen = query[:, -1:], part[:, -1:], None
            attended = F.scaled_dot_product_attention(
                query.transpose(1, 2), keys[:, :, :end], values[:, :, :end], seen,
                is_causal=not own.start and layer is not last,
                scale=known.scaling, enable_gqa=True,
            )  # fmt: skip
            part = known.after_attention(layer, part, attended.transpose(1, 2).flatten(2))
    return known.normal(part[:, -1], known.norm), positions


def _seen(count: int, end: int, device: torch.device) -> Tensor:
    """Return what the last ``count`` of ``end`` positions see: bool [count, end]."""
    return torch.ones(count, end, dtype=torch.bool, device=device).tril(end - count)


@dataclass
class KernelRows:
    """What the kernel reads and writes for the rows of several batches."""

    kernel: Any
    stack: decoder_kernel.Stack
    rows: ctypes.Array[decoder_kernel.Row]
    _parts: Sequence[_StaticPositions]

    def count(self, positions: int) -> None:
        """Count the positions that were written."""
        for part in self._parts:
            part.count(positions)


def kernel_rows(batches: Sequence[Positions], positions: int) -> KernelRows | None:
    """Return the rows of several batches with room for more positions, None without the kernel.

    A large batch is left to matrix products; those who only meet here keep the kernel, in which no
    row depends on the others.
    """
    static = [x for x in batches if isinstance(x, _StaticPositions)]
    if len(static) < len(batches) or len({id(x.layers) for x in static}) > 1:
        return None
    for part in static:
        part.make_room(positions)
    rows = [row for part in static for row in part.rows]
    if not rows or (len(static) == 1 and len(rows) > decoder_kernel.ROWS):
        return None
    layers = static[0].layers
    stack = layers.stack(max(part.room for part in static))
    return KernelRows(layers.kernel, stack, (decoder_kernel.Row * len(rows))(*rows), static)


def _advance_static(parts: Sequence[_StaticPositions], hidden: Tensor) -> Tensor:
    """Run one more position of every row of several batches over the same layers."""
    found = kernel_rows(parts, 1)
    if found is None:
        for part in parts:
            part.make_room(1)
        table = parts[0].layers.table(max(part.room for part in parts))
        hidden = _advance_captured(parts, hidden, table)
    else:
        hidden = hidden.contiguous().clone()
        found.kernel.run(
            ctypes.byref(found.stack), found.rows, hidden.data_ptr(), len(hidden), 0,
            torch.get_num_threads(),
        )  # fmt: skip
    for part in parts:
        part.count(1)
    return hidden


class _PositionGraph:
    """The positions of certain batches as a CUDA graph, which launches them at once.

    It holds addresses, so it serves these batches only, as long as their caches stay where they
    are. It is captured when the same batches meet for the second time in a row.
    """

    def __init__(self, parts: Sequence[_StaticPositions], table: tuple[Tensor, Tensor]) -> None:
        self._parts = [(weakref.ref(part), part.room) for part in parts]
        self._table = table
        self._hidden: Tensor | None = None
        self._recording: cuda_graph.Recording | None = None

    def serves(self, parts: Sequence[_StaticPositions], table: tuple[Tensor, Tensor]) -> bool:
        """Return whether these are its batches, with the same caches and rotary table."""
        found = [(ref(), room) for ref, room in self._parts]
        return found == [(part, part.room) for part in parts] and self._table is table

    def run(self, parts: Sequence[_StaticPositions], hidden: Tensor) -> Tensor:
        """Run one more position: [rows, D] -> [rows, D]."""
        if self._recording is None or self._hidden is None:
            self._hidden = buffer = hidden.clone()
            self._recording = cuda_graph.record(
                lambda: _advance_torch(parts, buffer, *self._table), hidden.device
            )
        self._hidden.copy_(hidden)
        self._recording.replay()
        return self._recording.output.clone()


def _advance_captured(
    parts: Sequence[_StaticPositions], hidden: Tensor, table: tuple[Tensor, Tensor]
) -> Tensor:
    """Run one more position by a CUDA graph where there is one for these batches."""
    first = parts[0]
    if not first.layers.captures:
        return _advance_torch(parts, hidden, *table)
    if first.graph is None or not first.graph.serves(parts, table):
        first.graph = _PositionGraph(parts, table)
        return _advance_torch(parts, hidden, *table)
    try:
        return first.graph.run(parts, hidden)
    except cuda_graph.CaptureError as error:
        log.warning("%s: decoding launches every operation by itself", error)
        first.layers.captures, first.graph = False, None
        return _advance_torch(parts, hidden, *table)


def _advance_torch(
    parts: Sequence[_StaticPositions], hidden: Tensor, cosines: Tensor, sines: Tensor
) -> Tensor:
    known = parts[0].layers
    sizes = [part.row_count for part in parts]
    masks = [part.mask() for part in parts]
    lengths = torch.cat([part.lengths for part in parts])
    cosine, sine = cosines[lengths][:, None], sines[lengths][:, None]
    for index, layer in enumerate(known.layers):
        projected = known.projected(layer, hidden, cosine, sine)
        own = zip(*(x.split(sizes) for x in projected), masks, strict=True)
        attended = [part.attend(index, *x) for part, x in zip(parts, own, strict=True)]
        hidden = known.after_attention(layer, hidden, torch.cat(attended))
    return known.normal(hidden, known.norm)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate [*, heads, S] by the angles of its position [*, 1, S]."""
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat((-right, left), -1) * sine


class _OwnForward:
    """Positions of any other transformer."""

    def __init__(self, transformer: Any, cache: DynamicCache, mask: Tensor | None) -> None:
        self._transformer, self._cache, self._mask = transformer, cache, mask
        length = cache.get_seq_length()
        self._next = torch.tensor([[length]]) if mask is None else mask.sum(1, keepdim=True)
        first: Any = cache.layers[0]
        self.row_count = len(first.keys)

    def advance(self, hidden: Tensor) -> Tensor:
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        out = self._transformer(
            inputs_embeds=hidden[:, None],
            attention_mask=self._mask,
            position_ids=self._next.to(hidden.device).expand(len(hidden), 1),
            use_cache=True,
            **cache_argument(self._transformer, self._cache),
        ).last_hidden_state
        self._next = self._next + 1
        return out[:, -1]
