"""What only a machine with a GPU can show, in one command and eight minutes.

    python -m benchmarks.gpu --json gpu.json --markdown gpu.md

Losses and gradients against the CPU's; a run that is killed and continued, to the same bytes;
training of 135 million to 8 billion parameters against transformers' loop written out, and its
memory; scoring. Models are Llama-shaped with random weights, made on the device; dialogues are made
up. It needs torch, transformers, peft and what they bring, and this folder; what needs bitsandbytes
is left out where that is missing.

Each configuration has a process of its own, so that running out of memory or crashing is a row of
the table and not the end. Processes are forks of this one, which has loaded the packages and never
touches the GPU. The most telling come first; what would not fit into the minutes is left out, by
what the one before took of what was expected of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import METHODS, PLAN, work
from benchmarks.gpu_report import report

KILL_AT = 4
"""The optimizer step in which a run is killed: its checkpoint is not written yet."""
DONE = "done"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row: what a process of its own does."""

    part: str
    settings: dict[str, Any] = field(default_factory=dict)
    """What the part takes, in words of JSON."""
    guess: float = 10
    """Seconds that it takes on a GPU of the H200's class."""
    needs: tuple[str, ...] = ()
    """Packages, and modules of this project, without which it is left out."""


def main() -> None:
    """Make all rows; write them after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="in all, at most")
    parser.add_argument("--tiny", action="store_true", help="tiny models, also without a GPU")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="all figures")
    parser.add_argument("--markdown", type=Path, default=Path("gpu.md"), help="tables of them")
    args = parser.parse_args()
    if args.minutes <= 0:
        sys.exit(f"--minutes: found {args.minutes:g}; wanted more than 0.")
    for file in (args.json, args.markdown):
        if not file.parent.is_dir():
            sys.exit(f"{file}: there is no folder {file.parent}; make it, or name another.")
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), seconds=60 * args.minutes, is_tiny=args.tiny)
        about = runs.about()
        if about.get("kind") != "cuda" and not args.tiny:
            sys.exit(
                f"no CUDA GPU was found (the first process: {about['outcome']}); this is for a "
                "machine with one. --tiny runs it with tiny models on what there is."
            )
        rows: list[Row] = []
        for task in tasks(is_tiny=args.tiny):
            rows.append(runs.run(task, memory_gb=about.get("memory_gb", 0)))
            print(f"{runs.elapsed:.0f} s: {label(rows[-1])}: {rows[-1]['outcome']}", flush=True)
            content = {"about": about, "minutes": args.minutes, "is_tiny": args.tiny, "rows": rows}
            args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            args.markdown.write_text(report(content), encoding="utf-8")
    print(f"\n{args.markdown.read_text(encoding='utf-8')}")


def tasks(*, is_tiny: bool) -> list[Task]:
    """All rows: what is measured, the most telling first, and then the memory that was planned."""
    measured = measurements(is_tiny=is_tiny)
    ours = [each.settings for each in measured if each.settings.get("by") == "this project"]
    names = ("size", "method")
    return measured + [
        Task(
            part="plan",
            settings={name: settings[name] for name in names},
            needs=(PLAN, "pydantic", "ruamel", "peft"),
        )
        for settings in ours
    ]


def measurements(*, is_tiny: bool) -> list[Task]:
    """What is measured, the most telling first."""
    if is_tiny:
        return [
            Task(part="agree"),
            *resumption("tiny"),
            *(training("tiny", method) for method in METHODS),
            training("tiny", "full", by="plain loop"),
            *(scoring("tiny", dtype) for dtype in ("float32", "bfloat16")),
        ]
    plain, compiled = "plain loop", "plain loop, compiled"
    return [
        Task(part="agree", guess=30),
        training("1B", "full", guess=35),
        training("1B", "full", by=plain, guess=20),
        training("8B", "LoRA", guess=50),
        training("8B", "LoRA", by=plain, guess=40),
        *resumption("small"),
        scoring("1B", "bfloat16", guess=20),
        scoring("1B", "float32", guess=30),
        training("135M", "full", guess=30),
        training("135M", "full", by=plain, guess=20),
        training("1B", "LoRA", guess=35),
        training("1B", "full, bfloat16 weights", guess=35),
        training("1B", "full, adamw_8bit", guess=40),
        training("8B", "LoRA, nf4", guess=70),
        training("1B", "full", by=compiled, guess=80),
        scoring("135M", "bfloat16", guess=15),
        scoring("135M", "float32", guess=15),
        training("135M", "full", by=compiled, guess=80),
        training("8B", "LoRA", by=compiled, guess=120),
    ]


def training(size: str, method: str, *, by: str = "this project", guess: float = 10) -> Task:
    """Return the task to train a model."""
    needs = ("peft",) * ("LoRA" in method) + ("bitsandbytes",) * method.endswith(("nf4", "8bit"))
    settings = {"size": size, "method": method, "by": by}
    return Task(part="train", settings=settings, guess=guess, needs=needs)


def scoring(size: str, dtype: str, *, guess: float = 10) -> Task:
    """Return the task to score made-up dialogues."""
    return Task(part="score", settings={"size": size, "dtype": dtype}, guess=guess)


def resumption(size: str) -> list[Task]:
    """Return three runs: one that is left alone, one that is killed, one that continues it."""
    named: dict[str, dict[str, Any]] = {
        "uninterrupted": {"has_checkpoints": False},
        "killed": {"has_checkpoints": True, "kill_at": KILL_AT},
        "continued": {"has_checkpoints": True},
    }
    return [
        Task(part="resume", settings={"size": size, "run": name} | settings, guess=25)
        for name, settings in named.items()
    ]


def label(row: Row) -> str:
    """Return a row's name, of its part and what tells it from the part's others."""
    names = ("size", "method", "dtype", "run", "by")
    return ", ".join([row["part"], *(row[name] for name in names if name in row)])


class Runs:
    """Starts one process after the other, and stops each at the end of the minutes."""

    def __init__(self, folder: Path, *, seconds: float, is_tiny: bool) -> None:
        """Start the clock; ``folder`` is for what processes leave to this one and to each other."""
        self._folder = folder
        self._is_tiny = is_tiny
        self._start = time.monotonic()
        self._seconds = seconds
        self._pace = 1.0
        """What the last task took, of what was expected of it."""
        self._method = "fork"

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def about(self) -> Row:
        """Return what the machine is; where a fork of this process has no GPU, forget forks."""
        row = self.run(Task(part="about"))
        if row.get("kind") != "cuda" and not self._is_tiny:
            self._method = "spawn"
            row = self.run(Task(part="about"))
        return row

    def run(self, task: Task, **more: Any) -> Row:
        """Do a task, or say in its row why it was not done or did not end well."""
        row = {"part": task.part, **task.settings}
        left = self._seconds - self.elapsed
        expected = self._pace * task.guess
        missing = [name for name in task.needs if importlib.util.find_spec(name) is None]
        if missing:
            return row | {"outcome": f"left out without {', '.join(missing)}"}
        if expected > left:
            outcome = f"left out: about {expected:.0f} s, and {max(0, left):.0f} s were left"
            return row | {"outcome": outcome}
        settings = {**asdict(task)["settings"], "part": task.part, "is_tiny": self._is_tiny}
        settings |= {"folder": str(self._folder), **more}
        out, log = (self._folder / name for name in ("figures.json", "log"))
        out.unlink(missing_ok=True)
        log.write_bytes(b"")
        started = time.monotonic()
        process = multiprocessing.get_context(self._method).Process(  # type: ignore[attr-defined]
            target=work, args=(settings, out, log)
        )
        process.start()
        try:
            process.join(left)
            is_late = process.is_alive()
        finally:
            process.kill()
            process.join()
        seconds = time.monotonic() - started
        row |= {"seconds": seconds, "said": said(log)}
        if is_late:
            return row | {"outcome": f"stopped after {seconds:.0f} s, at the end of the minutes"}
        if "kill_at" in task.settings and process.exitcode == -signal.SIGKILL:
            return row | {"outcome": DONE, "signal": -process.exitcode}
        if process.exitcode or not out.exists():
            return row | {"outcome": f"failed: {failure(process.exitcode, log)}"}
        self._pace = seconds / task.guess
        figures: Row = json.loads(out.read_text(encoding="utf-8"))
        return row | {"outcome": DONE} | figures


def failure(code: int | None, log: Path) -> str:
    """Say how a process ended: what it said last, or by which signal."""
    if code is not None and code < 0:
        hint = " (out of the host's memory?)" if code == -signal.SIGKILL else ""
        return f"signal {-code}{hint}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {code}"


def said(log: Path) -> list[str]:
    """Return the lines in which this project speaks."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.startswith("train: ")]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
