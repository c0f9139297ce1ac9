"""prep and encode against the bare tokenizer on the same text and cores; memory; growth.

    python -m benchmarks.prep --base models/base --corpus data/raw/chitchat.json --sizes 1 10 50

Size 10 is ten copies of the corpus that are not duplicates of each other: every copy but the first
has the words of each utterance in another order. Each run is two new processes, started as DVC
starts them, and then the bare tokenizer in a third: so the ratio holds while a machine's speed
drifts. Memory is that of all processes of a run together (proportional set size, sampled), Linux
only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tuning.corpus.records import RecordReader
from tuning.dialogue import Dialogue, Turn, to_line
from tuning.reading.pieces import read_pieces
from tuning.run.params import load_params

ROOT = Path(__file__).parent.parent
BATCH = 1000

BARE = """
import json, sys, time
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[2])
encode = getattr(tokenizer, sys.argv[3])
seconds, batch = 0.0, []
def flush():
    global seconds
    started = time.perf_counter()
    encode(batch, add_special_tokens=False)
    seconds += time.perf_counter() - started
    batch.clear()
with open(sys.argv[1], encoding="utf-8", newline="\\n") as file:
    for line in file:
        batch += [turn["utterance"] for turn in json.loads(line)["turns"]]
        if len(batch) >= int(sys.argv[4]):
            flush()
    flush()
print(seconds)
"""


def main() -> None:
    """Write the corpora, run everything in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--corpus", type=Path, required=True, help="the BYU chit-chat corpus")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 50], help="copies")
    parser.add_argument("--runs", type=int, default=3, help="of each size")
    parser.add_argument("--skip-bare", action="store_true", help="measure no bare tokenizer")
    args = parser.parse_args()
    methods = () if args.skip_bare else ("encode_batch", "encode_batch_fast")
    dialogues = list(read_corpus(args.corpus))
    print("copies, characters | prep s | encode s | peak MB | characters/s", *methods, sep=" | ")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in args.sizes:
            num_characters = write_copies(folder / "mine.jsonl", dialogues, size)
            runs = [
                run_once(folder, args.base.resolve(), num_characters, methods)
                for _ in range(args.runs)
            ]
            columns = [spread(values) for values in zip(*runs, strict=True)]
            print(f"{size}, {num_characters:,}", *columns, sep=" | ", flush=True)


def read_corpus(path: Path) -> Iterator[Dialogue]:
    """The corpus's dialogues that have text."""
    read = RecordReader(load_params(ROOT / "params.yaml").data)
    for piece in read_pieces(path):
        for record in chain.from_iterable(map(read, piece.records())):
            if record.dialogue and record.dialogue.turns:
                yield record.dialogue


def write_copies(path: Path, dialogues: list[Dialogue], size: int) -> int:
    """Write ``size`` copies; return their characters."""
    num_characters = 0
    with path.open("w", encoding="utf-8") as file:
        for copy in range(size):
            source = random.Random(copy)
            for dialogue in dialogues:
                turns = dialogue.turns
                if copy:
                    turns = tuple(Turn(t.speaker, shuffled(t.utterance, source)) for t in turns)
                changed = Dialogue(f"{dialogue.dialogue_id}-{copy}", turns)
                file.write(to_line(changed) + "\n")
                num_characters += changed.num_characters
    return num_characters


def shuffled(text: str, source: random.Random) -> str:
    """The same words in another order."""
    words = text.split()
    source.shuffle(words)
    return " ".join(words)


def run_once(
    folder: Path, base: Path, num_characters: int, methods: tuple[str, ...]
) -> list[float]:
    """Seconds of prep and of encode, megabytes at the peak, characters per second, ratios."""
    prepared, encoded = folder / "prepared", folder / "encoded"
    lock = ROOT / "requirements.lock"
    write_params(folder)
    prep, prep_peak = timed(
        folder,
        *("-m", "stages.prep", "--lock", str(lock), "--hub", "hub"),
        *("--prepared", "prepared", "--metrics", "prep.json"),
    )
    encode, encode_peak = timed(
        folder,
        *("-m", "stages.encode", "--prepared", "prepared", "--ledger", "prep.json"),
        *("--base", str(base)),
        *("--lock", str(lock), "--encoded", "encoded", "--metrics", "encode.json"),
        *("--preview", "preview.html"),
    )
    shutil.rmtree(prepared)
    shutil.rmtree(encoded)
    total = prep + encode
    text, tokenizer = folder / "mine.jsonl", base / "tokenizer.json"
    ratios = [bare_seconds(text, tokenizer, method) / total for method in methods]
    return [prep, encode, max(prep_peak, encode_peak), num_characters / total, *ratios]


def write_params(folder: Path) -> None:
    """The project's parameters, with every dialogue of the file in use."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {"path": "mine.jsonl", "max_dialogues": None, "min_speakers": 1}
    params["data"]["min_turns"] = 1
    yaml.dump(params, folder / "params.yaml")


def timed(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run Python with these arguments; wall seconds, and megabytes at the peak."""
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, sum(map(proportional_kb, tree(process.pid))) / 1e3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    if code:
        sys.exit(f"{' '.join(arguments[:2])} ended with exit code {code}")
    return seconds, peak


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return [pid]
    return [pid, *(process for child in text.split() for process in tree(int(child)))]


def proportional_kb(pid: int) -> int:
    """A process's memory; what it shares with n others counts an nth. 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def bare_seconds(text: Path, tokenizer: Path, method: str) -> float:
    """Seconds inside the tokenizer, on all cores, and nothing else."""
    command = [sys.executable, "-c", BARE, str(text), str(tokenizer), method, str(BATCH)]
    return float(json.loads(subprocess.check_output(command, text=True)))


def spread(values: tuple[float, ...]) -> str:
    """Median, and least and greatest where there are several."""
    digits = 0 if min(values) > 100 else 2

    def shown(value: float) -> str:
        return f"{value:,.{digits}f}"

    middle = shown(statistics.median(values))
    return f"{middle} ({shown(min(values))}–{shown(max(values))})" if len(values) > 1 else middle


if __name__ == "__main__":
    main()
