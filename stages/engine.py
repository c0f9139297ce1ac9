"""One function over many pieces: on every core of this machine, or on a Ray cluster.

The environment chooses, never a parameter: results come back in the order of the pieces and each
depends on its own piece alone, so the bytes that a stage writes do not depend on the choice.

``TUNING_ENGINE``   ``local`` (default) or ``ray``, which needs the optional extra ``ray``
``TUNING_WORKERS``  local processes; by default one per core that this process may use
``RAY_ADDRESS``     Ray's own variable, which names the cluster; unset, Ray starts on this machine
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from stages.errors import UserError
from stages.process import die_with_parent

Piece = TypeVar("Piece")
Result = TypeVar("Result")

PIECES_PER_DATASET = 512
"""Pieces that Ray Data holds at once: with pieces of a megabyte, half a gigabyte of its store."""


def map_in_order(
    make: Callable[[], Callable[[Piece], Result]], pieces: Iterable[Piece]
) -> Iterator[Result]:
    """Apply a function to every piece; results come in the pieces' order, as they are ready.

    Args:
        make: Builds the function, once per worker process. Must be picklable, as pieces and
            results must be.
        pieces: Read ahead by a few per worker, never as a whole.

    Raises:
        UserError: what the function raises; a worker died; the environment names no engine.
    """
    engine = os.environ.get("TUNING_ENGINE", "local")
    if engine == "local":
        return _on_this_machine(make, iter(pieces))
    if engine == "ray":
        return _on_ray(make, iter(pieces))
    raise UserError(f"TUNING_ENGINE: found {engine!r}; wanted local or ray.")


def num_workers() -> int:
    """Local processes: ``TUNING_WORKERS``, else the cores that this process may use."""
    wanted = os.environ.get("TUNING_WORKERS")
    if wanted is None:
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if not (wanted.isascii() and wanted.isdigit() and int(wanted) > 0):
        raise UserError(f"TUNING_WORKERS: found {wanted!r}; wanted a whole number from 1.")
    return int(wanted)


def _on_this_machine(
    make: Callable[[], Callable[[Piece], Result]], pieces: Iterator[Piece]
) -> Iterator[Result]:
    """A few pieces ahead in a pool of processes; what one process can do at once needs none."""
    workers = num_workers()
    first = list(islice(pieces, 2))
    if len(first) < 2 or workers == 1:
        yield from map(make(), chain(first, pieces))
        return
    # Forking is quick and shares what is loaded; these stages have started no threads yet.
    method = "fork" if sys.platform == "linux" else "spawn"
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context(method), _start_worker, (make,)
    ) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for piece in chain(first, pieces):
                running.append(pool.submit(_work_in_process, piece))
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was ended from outside, most often for want of memory. Run the "
                f"same command again with fewer workers: TUNING_WORKERS={max(1, workers // 2)}."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_work: Callable[[Any], Any]
"""This worker process's function."""


def _start_worker(make: Callable[[], Callable[[Any], Any]]) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers for all
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # One process per core: Rust libraries must not start a thread per core in each of them.
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    global _work
    _work = make()


def _work_in_process(piece: Any) -> Any:
    return _work(piece)


def _on_ray(
    make: Callable[[], Callable[[Piece], Result]], pieces: Iterator[Piece]
) -> Iterator[Result]:
    """Ray Data, one dataset after another. A lost node's pieces are done again by another."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"TUNING_ENGINE=ray: {error}. Install the extra: pip install 'ray[data]' at the "
            "version that pyproject.toml pins."
        ) from None
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, OSError) as error:
            address = os.environ.get("RAY_ADDRESS")
            raise UserError(f"no Ray cluster at RAY_ADDRESS={address}: {error}") from None
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    made = pickle.dumps(make)

    def run(row: dict[str, bytes]) -> dict[str, bytes]:
        try:
            result = pickle.dumps(_made(made)(pickle.loads(row["piece"])))
            return {"error": b"", "result": result}
        except UserError as error:
            return {"error": str(error).encode(), "result": b""}

    while window := list(islice(pieces, PIECES_PER_DATASET)):
        rows = [{"piece": pickle.dumps(piece)} for piece in window]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(run)
        for row in dataset.iter_rows():
            if row["error"]:
                raise UserError(row["error"].decode())
            yield pickle.loads(row["result"])


_made_functions: dict[bytes, Callable[[Any], Any]] = {}


def _made(make: bytes) -> Callable[[Any], Any]:
    """The function, built once per Ray worker process."""
    if make not in _made_functions:
        _made_functions[make] = pickle.loads(make)()
    return _made_functions[make]
