"""The machine that a run computes on: accelerator, precision, threads, allocator, compiler."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from dataclasses import dataclass
from typing import Literal

import torch

from tuning.run.errors import UserError

Precision = Literal["bf16", "fp16", "no"]

TARGETS_PER_CHUNK = 1024
"""Targets whose logits are in memory at once on a CPU, each as wide as the vocabulary."""
BYTES_OF_LOGITS = 2**31
"""The same on a GPU, in bytes: for each chunk the head is read from memory and its gradient
written, so few are better."""

_M_MMAP_MAX = -4
_M_TRIM_THRESHOLD = -1


@dataclass(frozen=True, kw_only=True)
class Device:
    """Settings of this run's computations; ``notes`` tell the user where they are not as asked."""

    kind: Literal["cpu", "cuda"]
    precision: Precision
    compiled: bool
    notes: tuple[str, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The type in which matrix products are computed."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[self.precision]


def set_threads(num_threads: int | None) -> int:
    """Use this many CPU threads: the count changes how sums are ordered, hence the last bits.

    Args:
        num_threads: None takes one per core that this process may use.

    Returns:
        The number of threads.
    """
    torch.set_num_threads(num_threads or num_cores())
    return torch.get_num_threads()


def share_threads(num_threads: int | None, num_processes: int) -> int:
    """Use this process's part of so many CPU threads, at least one; as ``set_threads`` does."""
    return set_threads(max(1, (num_threads or num_cores()) // num_processes))


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def targets_per_chunk(logits_per_target: int, dtype: torch.dtype, kind: str) -> int:
    """Return how many targets' logits are to be in memory at once on a kind of device."""
    if kind == "cpu":
        return TARGETS_PER_CHUNK
    bytes_of_few = TARGETS_PER_CHUNK * logits_per_target * dtype.itemsize
    return TARGETS_PER_CHUNK * max(1, BYTES_OF_LOGITS // bytes_of_few)


def keep_freed_memory() -> None:
    """Make glibc keep large buffers instead of handing them back to the kernel at every step.

    Getting the same pages zeroed again cost over a third of a compiled training step. Does nothing
    where the C library has no ``mallopt``, nor beside a GPU: there the model would be kept on the
    host for good.
    """
    if torch.cuda.is_available():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def peak_memory_gb(kind: str) -> float:
    """The most that this process held, on the GPU if it works there."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def choose_device(*, precision: Precision, compile_model: bool, num_threads: int | None) -> Device:
    """A GPU if there is one, else the CPU; the nearest precision that it is fast at.

    Raises:
        UserError: fp16 was asked for on a CPU, which has no loss scaling for it.
    """
    notes: list[str] = []
    if torch.cuda.is_available():
        # Needed for repeatable cuBLAS sums; read when the library starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Attention's backward pass takes its deterministic form only where others are errors.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # nothing reads it
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            notes.append("this GPU has no bf16: using fp16 with loss scaling")
            precision = "fp16"
        return Device(kind="cuda", precision=precision, compiled=compile_model, notes=tuple(notes))

    if precision == "fp16":
        raise UserError(
            "train.mixed_precision is fp16, which needs a GPU, and none was found. Use bf16 or no."
        )
    if precision == "bf16" and not _cpu_has_bf16():
        notes.append("this CPU has no fast bf16: training in float32, which is slower")
        precision = "no"
    if compile_model and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        notes.append("no C++ compiler found: training uncompiled, which is slower")
        compile_model = False
    if num_threads is not None and num_cores() > num_threads:
        notes.append(f"{num_cores()} cores here, num_threads uses {num_threads}")
    return Device(kind="cpu", precision=precision, compiled=compile_model, notes=tuple(notes))


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
