"""Counts the bytes of tensors without contents, as they come and go."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from tools.preflight.heap import Heap

aten = torch.ops.aten


class Meter(FakeTensorMode):
    """A mode in which tensors have no contents, and their bytes are counted.

    What asks for contents gets the answer that costs most: every token is a target, and what is
    compared is equal if it is one tensor.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self.heap = Heap()
        self._known: dict[int, weakref.ref[Any]] = {}
        self._depth = 0  # an operation of a new shape runs others, for its own shape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation on shapes; count what it allocates."""
        if func is aten.equal.default:
            return args[0].untyped_storage()._cdata == args[1].untyped_storage()._cdata
        if func in (aten._local_scalar_dense.default, aten.allclose.default):
            return 1
        if func is aten.nonzero.default:
            func, args = aten.zeros.default, ([args[0].numel(), args[0].ndim],)
            kwargs = {"dtype": torch.int64, "device": "cpu"}
        if func is aten._grouped_mm.default:  # of shapes alone it knows those in bfloat16
            left, right, offsets = args
            shape = [len(left), right.shape[-1]]
            shape = shape if right.ndim == 3 else [len(offsets), *shape]
            func, args, kwargs = aten.new_empty.default, (left, shape), {}
        self._depth += 1
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs or {})
        finally:
            self._depth -= 1
        self.fake_tensor_converter.tensor_memo.clear()  # its references keep modules from moving
        for each in tree_leaves(result):
            if self._depth == 0 and isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return result

    def begin(self) -> None:
        """Count from here on: what there is already lies elsewhere."""
        self.now = self.peak = 0
        self.heap = Heap()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return

        heap = self.heap
        place = heap.allocate(size)

        def forget(_: object) -> None:
            heap.free(place)
            if heap is self.heap:
                self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)
