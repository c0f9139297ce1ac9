"""A limit on the size of files stands for the full disk: the same calls return the error."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

NEEDS = r"(File too large|No space left on device): (more than )?[\d,]+ bytes needed, [\d,]+ free"
"""What is said of such a disk, as a pattern; the place follows in brackets."""
WHAT_TO_DO = (
    "Free some space there (docs/troubleshooting.md says what may go) and run the same command "
    "again."
)


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Within the block a file takes so many bytes and no more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
