"""What a model keeps of rows that have got differently far: each begins and ends by itself.

transformers' own cache puts a pass's tokens into the same slot of every row. Here a row's token n
stands in its slot n: rows of any lengths take one token each per pass, nothing is moved when a row
ends, and the place of one that has ended is taken by the next::

    row 0   c c c c c x x .        c  context, x  written
    row 1   c c x x x x . .        .  free, or left by an earlier row: hidden by the mask
    row 2   c c c c x . . .

Layers that keep a state of one size (state spaces, linear attention, convolutions) have it in the
row's place of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from tuning.language_model.in_parts import read_part, read_rows
from tuning.language_model.loading import (
    is_same,
    logits_of,
    reads_alone,
    short_reach,
    two_texts,
)
from tuning.language_model.masks import attention_masks

SLOTS_AT_ONCE = 256
"""The fewest slots by which the rows grow at once."""
NUM_PASSES = 4
"""Passes in which a model is asked whether rows side by side are what each is alone."""
_SIDE_BY_SIDE = "_side_by_side"
CacheLayer = CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer
_KINDS = (DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer, DummyLayer)
"""Layers that keep every token's keys and values, states, both, or nothing."""


class RowCache(Cache):
    """Up to ``num_rows`` rows; those in use are the first ones."""

    def __init__(self, num_rows: int) -> None:
        """Begin without any row in use."""
        self._num_rows = num_rows
        self._rows: list[_Layer] = []
        super().__init__(layers=self._rows)  # type: ignore[arg-type]

    def put(self, row: int, read: DynamicCache, length: int) -> None:
        """Begin a row with the first tokens of a context that was read alone.

        Its states are those behind all that was read.
        """
        for number, one in enumerate(read.layers):
            if number == len(self._rows):
                self._rows.append(_Layer(one, self._num_rows))
            self._rows[number].put(row, one, length)

    def move(self, row: int, *, to: int, length: int) -> None:
        """Put what is kept of a row into the place of another."""
        for layer in self._rows:
            layer.move(row, to, length)

    def read(self, model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Read a token of each row in use; return the logits ``[rows, V]`` of those to come.

        Each row sees its own tokens and the new one, as far as a layer looks back.
        """
        num_slots = max(positions) + 1
        place = torch.tensor(positions, device=model.device)
        for layer in self._rows:
            layer.expect(place, num_slots)
        slots = torch.arange(num_slots, device=place.device)[None]
        visible = slots <= place[:, None]
        masks: Tensor | dict[str, Tensor] | None = None
        if not reads_alone(model):
            masks = attention_masks(model, visible[:, None, None], place[:, None], slots)
        elif any(layer.slots for layer in self._rows):
            masks = visible.long()  # of which such a model makes its own
        tokens = torch.tensor(ids, device=model.device)
        return read_rows(model, tokens[:, None], self, place[:, None], masks)


class OneRow(RowCache):
    """One row of any model, whatever it keeps of it and wherever."""

    def __init__(self) -> None:
        """Begin without the row."""
        super().__init__(1)

    def put(self, row: int, read: DynamicCache, length: int) -> None:  # noqa: ARG002
        """Begin the row with all that was read, and last."""
        self._read = read

    def read(self, model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Read the row's next token; return the logits ``[1, V]`` of the one to come."""
        return read_part(model, ids, self._read, *positions)


class _Layer(LinearAttentionAndFullAttentionLayer):
    """What one layer keeps of each row: keys and values, states, both, or nothing."""

    slots: dict[str, Tensor]
    """Keys and values, ``[rows, H, slots, D]``."""
    states: dict[tuple[str, int], Tensor]
    """``[rows, ...]``, by kind and number."""
    place: Tensor
    """``[rows in use]`` Slot of each one's next token."""
    num_slots: int
    """Slots that the next pass looks at."""

    def __init__(self, read: CacheLayer, num_rows: int) -> None:
        """Take the shape of what a context leaves in this layer."""
        assert type(read) in _KINDS  # one of a window keeps too little
        super().__init__()
        vars(self).update(vars(read))
        self.keys = self.values = None
        self.conv_states, self.recurrent_states = {}, {}
        # Zeros: what a mask hides counts 0 times its value, which must be a number.
        self.slots = {
            name: one.new_zeros(num_rows, one.shape[1], 0, one.shape[3])
            for name, one in _slots_of(read).items()
        }
        self.states = {
            key: one.new_zeros(num_rows, *one.shape[1:]) for key, one in _states_of(read).items()
        }

    def put(self, row: int, read: CacheLayer, length: int) -> None:
        """Begin a row with what a context left."""
        self.reserve(length)
        for name, one in _slots_of(read).items():
            self.slots[name][row, :, :length] = one[0, :, :length]
        for key, one in _states_of(read).items():
            self.states[key][row] = one[0]

    def move(self, row: int, to: int, length: int) -> None:
        """Put what is kept of a row into the place of another."""
        for own in self.slots.values():
            own[to, :, :length] = own[row, :, :length]
        for own in self.states.values():
            own[to] = own[row]

    def reserve(self, num_slots: int) -> None:
        """Make room for so many tokens per row."""
        for name, own in self.slots.items():
            missing = num_slots - own.shape[2]
            if missing > 0:
                self.slots[name] = pad(own, (0, 0, 0, max(missing, SLOTS_AT_ONCE)))

    def expect(self, place: Tensor, num_slots: int) -> None:
        """Say where the next pass's token of each row in use belongs."""
        self.reserve(num_slots)
        self.place, self.num_slots = place, num_slots
        for (kind, number), own in self.states.items():
            getattr(self, kind)[number] = own[: len(place)]  # which the pass changes in place

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Add each row's token; give back all rows in use."""
        size = len(self.place)
        rows = torch.arange(size, device=self.place.device)
        keys, values = self.slots["keys"], self.slots["values"]
        keys[rows, :, self.place] = key_states[:, :, 0]
        values[rows, :, self.place] = value_states[:, :, 0]
        return keys[:size, :, : self.num_slots], values[:size, :, : self.num_slots]

    def get_seq_length(self) -> int:
        """Tokens before the next one, of the longest row."""
        return self.num_slots - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """Slots that the next pass looks at, and the first of them."""
        return self.num_slots, 0


def _slots_of(read: CacheLayer) -> dict[str, Tensor]:
    found = {name: getattr(read, name, None) for name in ("keys", "values")}
    return {name: one for name, one in found.items() if one is not None}


def _states_of(read: CacheLayer) -> dict[tuple[str, int], Tensor]:
    return {
        (kind, number): state
        for kind in ("conv_states", "recurrent_states")
        for number, state in getattr(read, kind, {}).items()
        if state is not None
    }


def writes_side_by_side(model: PreTrainedModel) -> bool:
    """Tell whether rows of a cache get the logits of each alone.

    A model that keeps texts apart by a mask does that; of the others, each is asked once.
    """
    if reads_alone(model) and not hasattr(model, _SIDE_BY_SIDE):
        setattr(model, _SIDE_BY_SIDE, _keeps_side_by_side(model))
    return getattr(model, _SIDE_BY_SIDE, True)


@torch.no_grad()
def _keeps_side_by_side(model: PreTrainedModel) -> bool:
    """Layers that do not see everything before see so little meanwhile that texts exceed it."""
    texts = two_texts(model)
    cache = RowCache(len(texts))
    found = []
    with short_reach(model.config.get_text_config()):
        alone = [logits_of(model, text[None])[0, -NUM_PASSES:] for text in texts]
        try:
            for row, text in enumerate(texts):
                read = DynamicCache(config=model.config)
                read_part(model, text[:-NUM_PASSES].tolist(), read, 0)
                cache.put(row, read, len(text) - NUM_PASSES)
            for left in range(NUM_PASSES, 0, -1):
                positions = [len(text) - left for text in texts]
                ids = [int(text[-left]) for text in texts]
                found.append(cache.read(model, ids, positions))
        except Exception:  # whatever layers make of a cache that is not for them
            return False
    rows = torch.stack(found, dim=1)
    return all(is_same(model, *pair) for pair in zip(rows, alone, strict=True))
