"""Gradients of a step: summed over all processes, and clipped.

They are summed while the backward pass goes on finding others: in buckets, from the last parameter
to the first, which is about the order in which they are found. What is in a bucket, and the order
of the buckets, follow from the parameters alone, so a run that was stopped adds in the same order
as one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tuning.processes.group import Processes, whole

BYTES_PER_BUCKET = 25 * 2**20
"""Few of less would be slow to send, of more late to begin."""


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    num_missing: int = 0
    """Parameters whose gradient of the last pass is not there yet."""
    flat: Tensor | None = None
    """Their gradients one after the other, and for each 1, or 0 if this process has none."""
    work: dist.Work | None = None


class GradientSums:
    """Sums of the gradients of what every process holds whole; sharded ones are summed already."""

    def __init__(self, parameters: Sequence[nn.Parameter], processes: Processes) -> None:
        """Take trained parameters; in one process there is nothing to be done."""
        self._buckets: list[_Bucket] = []
        self._is_last_pass = False
        if processes.size == 1:
            return
        own = [each for each in reversed(parameters) if not isinstance(each, DTensor)]
        for dtype in dict.fromkeys(each.dtype for each in own):
            size = BYTES_PER_BUCKET
            for parameter in (each for each in own if each.dtype == dtype):
                if size >= BYTES_PER_BUCKET:
                    self._buckets.append(_Bucket([]))
                    size = 0
                self._buckets[-1].parameters.append(parameter)
                size += parameter.nbytes
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                self._notice(parameter, bucket)

    def begin_last_pass(self) -> None:
        """Sum each gradient once the next backward pass has added to it."""
        self._is_last_pass = True
        for bucket in self._buckets:
            bucket.num_missing = len(bucket.parameters)

    def finish(self) -> None:
        """Replace each gradient by its sum; where no process has one there is none."""
        self._is_last_pass = False
        for bucket in self._buckets:  # of parameters that the last pass did not need
            if bucket.work is None:
                self._send(bucket)
        for bucket in self._buckets:
            assert bucket.work is not None and bucket.flat is not None
            bucket.work.wait()
            sizes = [each.numel() for each in bucket.parameters]
            *sums, counts = torch.split(bucket.flat, [*sizes, len(sizes)])
            for index, (parameter, total) in enumerate(zip(bucket.parameters, sums, strict=True)):
                if parameter.grad is not None:
                    parameter.grad.copy_(total.view_as(parameter))
                elif counts[index] > 0:
                    parameter.grad = total.view_as(parameter).clone()
            bucket.flat = bucket.work = None

    def _notice(self, parameter: nn.Parameter, bucket: _Bucket) -> None:
        def on_gradient(_: Tensor) -> None:
            if not self._is_last_pass:
                return
            bucket.num_missing -= 1
            for each in self._buckets:  # in one order, whatever is found first
                if each.num_missing > 0:
                    break
                if each.work is None:
                    self._send(each)

        parameter.register_post_accumulate_grad_hook(on_gradient)  # type: ignore[no-untyped-call]

    def _send(self, bucket: _Bucket) -> None:
        found = [each.grad for each in bucket.parameters]
        parts = [
            torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
            for parameter, gradient in zip(bucket.parameters, found, strict=True)
        ]
        is_there = [float(gradient is not None) for gradient in found]
        bucket.flat = torch.cat([*parts, parts[0].new_tensor(is_there)])
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients so that their norm is at most ``max_norm``; return what it was.

    Some may be sharded and others not; every process must call this.
    """
    kinds = [
        [each for each in parameters if isinstance(each, DTensor) is is_sharded]
        for is_sharded in (False, True)
    ]
    found = [[each.grad for each in kind if each.grad is not None] for kind in kinds]
    norms = [whole(get_total_norm(gradients)) for gradients in found if gradients]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for kind in kinds:
        clip_grads_with_norm_(kind, max_norm, norm)
    return norm
