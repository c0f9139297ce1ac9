"""Keys and values of rows that have got differently far, so that each can begin and end by itself.

transformers' own cache puts a pass's tokens into the same slot of every row. Here a row's token n
stands in its slot n: rows of any lengths take one token each per pass, nothing is moved when a row
ends, and the place of one that has ended is taken by the next::

    row 0   c c c c c x x .        c  context, x  written
    row 1   c c x x x x . .        .  free, or left by an earlier row: hidden by the mask
    row 2   c c c c x . . .
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from tuning.language_model.masks import attention_masks

SLOTS_AT_ONCE = 256
"""The fewest slots by which the rows grow at once."""


class RowCache(Cache):
    """Up to ``num_rows`` rows; those in use are the first ones."""

    def __init__(self, num_rows: int) -> None:
        """Begin without any row in use."""
        self._num_rows = num_rows
        self._rows: list[_Layer] = []
        super().__init__(layers=self._rows)  # type: ignore[arg-type]

    def put(self, row: int, read: DynamicCache, length: int) -> None:
        """Begin a row with the first tokens of a context that was read alone."""
        for number, one in enumerate(read.layers):
            assert isinstance(one, DynamicLayer) and one.keys is not None is not one.values
            if number == len(self._rows):
                self._rows.append(_Layer(one.keys, one.values, self._num_rows))
            layer = self._rows[number]
            layer.reserve(length)
            layer.keys[row, :, :length] = one.keys[0, :, :length]
            layer.values[row, :, :length] = one.values[0, :, :length]

    def move(self, row: int, *, to: int, length: int) -> None:
        """Put the tokens of a row into the place of another."""
        for layer in self._rows:
            for own in (layer.keys, layer.values):
                own[to, :, :length] = own[row, :, :length]

    def expect(
        self, model: PreTrainedModel, positions: Sequence[int]
    ) -> Tensor | dict[str, Tensor]:
        """Say where the next pass's token of each row in use belongs.

        Returns:
            The masks of that pass, ``[rows, 1, 1, slots]``: each row sees its own tokens and the
            new one, as far as a layer looks back.
        """
        num_slots = max(positions) + 1
        place = torch.tensor(positions, device=self._rows[0].keys.device)
        for layer in self._rows:
            layer.reserve(num_slots)
            layer.place, layer.num_slots = place, num_slots
        slots = torch.arange(num_slots, device=place.device)[None]
        visible = (slots <= place[:, None])[:, None, None]
        return attention_masks(model, visible, place[:, None], slots)


class _Layer(DynamicLayer):
    """One layer's keys and values, ``[rows, H, slots, D]``."""

    keys: Tensor
    values: Tensor
    place: Tensor
    """``[rows in use]`` Slot of each one's next token."""
    num_slots: int
    """Slots that the next pass looks at."""

    def __init__(self, keys: Tensor, values: Tensor, num_rows: int) -> None:
        """Take the shape of what a context leaves in this layer."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        # Zeros: what a mask hides counts 0 times its value, which must be a number.
        self.keys, self.values = (
            one.new_zeros(num_rows, one.shape[1], 0, one.shape[3]) for one in (keys, values)
        )

    def reserve(self, num_slots: int) -> None:
        """Make room for so many tokens per row."""
        missing = num_slots - self.keys.shape[2]
        if missing > 0:
            more = (0, 0, 0, max(missing, SLOTS_AT_ONCE))
            self.keys, self.values = pad(self.keys, more), pad(self.values, more)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Add each row's token; give back all rows in use."""
        size = len(self.place)
        rows = torch.arange(size, device=self.place.device)
        self.keys[rows, :, self.place] = key_states[:, :, 0]
        self.values[rows, :, self.place] = value_states[:, :, 0]
        return self.keys[:size, :, : self.num_slots], self.values[:size, :, : self.num_slots]
