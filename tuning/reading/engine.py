"""Apply one function to many pieces: on every core of this machine, or on a Ray cluster.

The environment chooses, never a parameter: results come back in the order of the pieces and each
depends on its own piece alone, so the bytes that a stage writes do not depend on the choice.

``TUNING_ENGINE``   ``local`` (default) or ``ray``, which needs the optional extra ``ray``
``TUNING_WORKERS``  local processes; by default one per core that this process may use
``RAY_ADDRESS``     Ray's own variable, which names the cluster: docs/scaling.md
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from tuning.run.errors import UserError
from tuning.run.process import die_with_parent

Piece = TypeVar("Piece")
Result = TypeVar("Result")

PIECES_PER_DATASET = 512
"""Pieces that Ray Data holds at once: with pieces of a megabyte, half a gigabyte of its store."""

PIECES_PER_TASK = 8
"""A task costs this process some milliseconds; fewer pieces where some CPUs would have none."""
RETRIES = 5
"""Times that a task is tried again whose Ray worker or node was lost; one that always kills its
worker must end."""

# A worker is one thread. In Rust libraries, which would start one per core in each worker; and in
# this process too: a worker forked off beside rensa's threads waits for them forever.
os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def map_in_order(
    make: Callable[[], Callable[[Piece], Result]], pieces: Iterable[Piece]
) -> Iterator[Result]:
    """Apply a function to every piece; results come in the pieces' order, as they are ready.

    Args:
        make: Builds the function, once per worker process. Must be picklable, as pieces and
            results must be.
        pieces: Read ahead by a few per worker, on Ray by ``PIECES_PER_DATASET``; never as a whole.

    Raises:
        UserError: what the function raises; a worker died; the environment names no engine, or no
            cluster that answers.
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
    """Work a few pieces ahead in a pool of processes; one piece or one worker needs no pool."""
    workers = num_workers()
    gc.freeze()  # what is loaded by now stays; looking through it again took 5 to 20 % of the time
    first = list(islice(pieces, 2))
    if len(first) < 2 or workers == 1:
        yield from map(make(), chain(first, pieces))
        return
    # Forking is quick and shares what is loaded.
    method = "fork" if sys.platform == "linux" else "spawn"
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context(method), _start_worker, (make,)
    ) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for piece in chain(first, pieces):
                running.append(pool.submit(_work, piece))
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
            pool.shutdown(cancel_futures=True)  # waits for the pieces under way


_make: Callable[[], Callable[[Any], Any]]
"""Builds this worker process's function."""


def _start_worker(make: Callable[[], Callable[[Any], Any]]) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers for all
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Nearly all that a piece makes ends with it, by count of references: looking for circles while
    # it is worked on took a tenth of the time.
    gc.disable()
    global _make
    _make = make


@cache
def _function() -> Callable[[Any], Any]:
    """Build the function with the first piece, so that a fault arrives as that piece's error."""
    return _make()


def _work(piece: Any) -> Any:
    result = _function()(piece)
    gc.collect()
    return result


def _on_ray(
    make: Callable[[], Callable[[Piece], Result]], pieces: Iterator[Piece]
) -> Iterator[Result]:
    """Work by Ray Data, one dataset after another; a lost node's pieces are done by another."""
    _join_cluster()
    import ray.data
    from ray.exceptions import RayError, UserCodeException
    from ray.util.annotations import RayDeprecationWarning

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    made, folder = pickle.dumps(make), Path.cwd()
    num_cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]

    def run(row: dict[str, bytes]) -> dict[str, bytes]:
        try:
            result = _function_on_ray(made, folder)(pickle.loads(row["piece"]))
        except UserError as error:
            result = error
        except OSError as error:
            result = UserError(
                f"on the Ray node {socket.gethostname()}: {error}. Every node must see "
                "the project and its data at the same paths: docs/scaling.md."
            )
        return {"result": pickle.dumps(result)}

    while window := list(islice(pieces, PIECES_PER_DATASET)):
        rows = [{"piece": pickle.dumps(piece)} for piece in window]
        num_tasks = max(-(-len(rows) // PIECES_PER_TASK), min(len(rows), num_cpus))
        dataset = ray.data.from_items(rows, override_num_blocks=num_tasks)
        with warnings.catch_warnings():
            # Ray Data's default is to retry forever; 2.60 has no other way to bound it.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            results = dataset.map(run, max_retries=RETRIES)
        try:
            for row in results.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, UserError):
                    raise result
                yield result
        except UserCodeException:
            raise  # a fault of ours, with its traceback
        except RayError as error:
            raise UserError(f"the Ray cluster failed: {error}") from None


def _join_cluster() -> None:
    """Connect this process to the cluster that ``RAY_ADDRESS`` names, quietly and once."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"TUNING_ENGINE=ray: {error}. Install the extra: pip install 'ray[data]' at the "
            "version that pyproject.toml pins."
        ) from None
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    address = os.environ.get("RAY_ADDRESS", "")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address not in {"", "auto", "local"}:
            # Ray would knock for minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster there ({error}). Wanted the host:port that "
            "`ray start --head` prints, on a machine that has joined that cluster."
        ) from None
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # the stage's own: DVC must see 128 + 15


@cache
def _function_on_ray(make: bytes, folder: Path) -> Callable[[Any], Any]:
    """Build the function, once per Ray worker process, and stand in the stage's folder."""
    os.chdir(folder)
    function: Callable[[Any], Any] = pickle.loads(make)()
    return function
