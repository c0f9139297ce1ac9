"""The local engine: order, laziness, one worker or three, and what is left when it goes wrong."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from stages.encode import encode
from stages.prep import prepare
from tuning.reading import records
from tuning.reading.engine import map_in_order
from tuning.reading.pieces import read_pieces
from tuning.run.errors import UserError
from tuning.run.params import DataParams, EncodingParams, load_params

ROOT = Path(__file__).parents[2]


class Square:
    """A function that says where and how often it was built."""

    def __init__(self, folder: Path) -> None:
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()

    def __call__(self, number: int) -> int:
        time.sleep(0.002 * (number % 3))  # later pieces are often done first
        return number**2


def refuse_three(number: int) -> int:
    if number == 3:
        raise UserError("line 3: found three, wanted anything else.")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def make_refusing() -> Callable[[int], int]:
    return refuse_three


def make_dying() -> Callable[[int], int]:
    return die_at_three


def make_nothing() -> Callable[[int], int]:
    raise UserError("no function to be had.")


@pytest.fixture(params=[1, 2, 3])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    number: int = request.param
    use(number, monkeypatch)
    return number


def use(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNING_ENGINE", "local")
    monkeypatch.setenv("TUNING_WORKERS", str(workers))


def test_results_come_in_order_and_the_function_is_built_once_per_worker(
    workers: int, tmp_path: Path
) -> None:
    results = list(map_in_order(partial(Square, tmp_path), range(50)))
    assert results == [number**2 for number in range(50)]
    built_by = [file.name.partition("-")[0] for file in tmp_path.iterdir()]
    assert len(built_by) == len(set(built_by)) <= workers
    assert (str(os.getpid()) in built_by) == (workers == 1)


@pytest.mark.parametrize("num_pieces", [0, 1, 2])
def test_few_pieces(workers: int, num_pieces: int, tmp_path: Path) -> None:
    results = list(map_in_order(partial(Square, tmp_path), range(num_pieces)))
    assert results == [0, 1][:num_pieces]


def test_pieces_are_read_a_few_ahead(workers: int, tmp_path: Path) -> None:
    num_read = 0

    def pieces() -> Iterator[int]:
        nonlocal num_read
        for number in range(100):
            num_read += 1
            yield number

    for num_done, _ in enumerate(map_in_order(partial(Square, tmp_path), pieces()), start=1):
        assert num_read - num_done <= 2 * workers + 1
    assert num_done == 100


def test_a_users_mistake_in_a_worker_arrives_as_itself(workers: int) -> None:
    with pytest.raises(UserError, match=r"^line 3: found three, wanted anything else\.$"):
        list(map_in_order(make_refusing, range(100)))
    assert not multiprocessing.active_children()


def test_a_users_mistake_in_building_the_function_arrives_as_itself(workers: int) -> None:
    with pytest.raises(UserError, match=r"^no function to be had\.$"):
        list(map_in_order(make_nothing, range(100)))
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(3, monkeypatch)
    with pytest.raises(UserError, match="ended from outside.*TUNING_WORKERS=1") as caught:
        list(map_in_order(make_dying, range(100)))
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert not multiprocessing.active_children()


def test_a_consumer_that_stops_early_leaves_no_process(
    workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = map_in_order(partial(Square, tmp_path), range(10**6))
    assert [next(results), next(results)] == [0, 1]
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "", "²"])
def test_a_wrong_number_of_workers_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNING_WORKERS", value)
    with pytest.raises(UserError, match=f"TUNING_WORKERS: found '{value}'; wanted a whole number"):
        list(map_in_order(make_refusing, range(3)))


def test_a_wrong_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNING_ENGINE", "spark")
    with pytest.raises(UserError, match="TUNING_ENGINE: found 'spark'; wanted local or ray"):
        map_in_order(make_refusing, range(3))


HANGING = """
import os, time
from tuning.reading.engine import map_in_order

def report_and_hang(number):
    os.write(1, b"%d\\n" % os.getpid())  # whole, whatever another worker writes
    time.sleep(600)

def make():
    return report_and_hang

list(map_in_order(make, range(9)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_workers_die_with_a_killed_parent() -> None:
    environment = os.environ | {"TUNING_ENGINE": "local", "TUNING_WORKERS": "2"}
    with subprocess.Popen(
        [sys.executable, "-c", HANGING], cwd=ROOT, env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        try:
            workers = [Path("/proc", parent.stdout.readline().decode().strip()) for _ in range(2)]
            assert all(worker.exists() for worker in workers), workers
        finally:
            parent.kill()
        parent.stdout.read()  # ends when the last holder of the pipe is going
    until = time.monotonic() + 10
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process: Path) -> bool:
    """Whether it is there, and not only as an entry that nobody has asked about."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="forking is Linux's way")
def test_a_small_file_before_a_large_one_does_not_hang() -> None:
    """Threads of rensa in this process, from a single piece, must not outlive into a fork."""
    code = (
        "from tuning.corpus.duplicates import band_hashes, shingle_hashes\n"
        "from tuning.reading.engine import map_in_order\n"
        "runs = shingle_hashes([list('abcdef') * 50] * 500)\n"
        "hashes = lambda _: band_hashes(*runs, 0.7).shape[0]\n"
        "print(*map_in_order(lambda: hashes, range(1)), *map_in_order(lambda: hashes, range(3)))"
    )
    environment = os.environ | {"TUNING_ENGINE": "local", "TUNING_WORKERS": "2"}
    run = [sys.executable, "-c", code]
    output = subprocess.check_output(run, cwd=ROOT, env=environment, timeout=60)
    assert output == b"500 500 500 500\n"


def test_the_written_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "PIECE_BYTES", 8_000)
    source = write_corpus(tmp_path / "data", num_dialogues=400)
    num_pieces = sum(1 for file in source.iterdir() for _ in read_pieces(file))
    assert num_pieces > 10

    def outputs(workers: int) -> dict[str, object]:
        use(workers, monkeypatch)
        folder = tmp_path / f"workers-{workers}"
        return run_both(source, tiny_base, folder)

    one = outputs(1)
    ledger = one["prep.json"]
    assert isinstance(ledger, dict) and ledger["num_invalid"] and ledger["num_dialogues"]["train"]
    assert {"prepared/train.jsonl", "prepared/val.jsonl", "prepared/dropped.jsonl"} < one.keys()
    assert outputs(2) == one
    assert outputs(3) == one


def write_corpus(folder: Path, num_dialogues: int) -> Path:
    """A folder with a short file, a long one and a compressed one; some repeats and faults."""
    draw = random.Random(num_dialogues)
    words = ["the", "sea", "whale", "piano", "tea", "music", "Straße", "naïve", "海", "haha", "🙂"]
    records = []
    for number in range(num_dialogues):
        texts = [" ".join(draw.choices(words, k=draw.randint(3, 25))) for _ in range(6)]
        turns = [{"speaker": "AB"[i % 2], "text": text} for i, text in enumerate(texts)]
        records.append({"id": f"d{number}", "turns": turns})
        if number % 10 == 0:
            records.append({"id": f"d{number} again", "turns": turns})
        if number % 50 == 0:
            records.append({"id": f"d{number} broken", "turns": [{"speaker": "A"}]})
    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records]
    folder.mkdir(parents=True)
    third = len(lines) // 3
    (folder / "a.jsonl").write_bytes(b"".join(lines[:4]))
    (folder / "b.jsonl").write_bytes(b"".join(lines[4:-third]))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[-third:]), mtime=0))
    return folder


def run_both(source: Path, base: Path, folder: Path) -> dict[str, object]:
    """Prep, then encode, into a new folder; every file's bytes, and both ledgers."""
    params = load_params(ROOT / "params.yaml")
    data = DataParams(**params.data.model_dump() | {"max_dialogues": None, "on_invalid": "skip"})
    encoding = EncodingParams(**params.encoding.model_dump() | {"max_length": 64})
    prepared, encoded = folder / "prepared", folder / "encoded"
    prepared.mkdir(parents=True)
    encoded.mkdir()
    ledger = prepare(source, data, prepared)
    tokens = encode(prepared, base, encoded, encoding, num_speakers=2)
    files = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    return {**files, "prep.json": ledger, "encode.json": tokens}
