"""Training against TRL and the Trainer of transformers: speed, memory, loss on the same dialogues.

    python -m benchmarks.train --model models/base --corpus data/raw/chitchat.json \
        --peers-python ../peers/bin/python

Every run is a new process; the contenders take turns, so that ratios hold while a machine's speed
drifts. This project runs as DVC runs it (the commands of dvc.yaml), a peer as its users get it
(benchmarks/train_peers.py). The first optimizer step is warm-up.

Each contender has a compile cache of its own, empty at first: the first run's first step is cold,
the others' are warm. benchmarks/requirements.txt says how to make the peers' interpreter.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.train_report import CONTENDERS, Figures, Settings, print_tables
from tuning.run.pipeline import own_stages

ROOT = Path(__file__).parent.parent
VERSIONS = """
import importlib.metadata, json
names = ("torch", "transformers", "trl", "datasets", "dill", "multiprocess")
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
print(json.dumps({name: found.get(name) for name in names}))
"""


def main() -> None:
    """Prepare the dialogues, let the contenders take turns, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model", required=True, help="a folder as fetch writes it, or gpt2-medium"
    )
    parser.add_argument("--corpus", type=Path, required=True, help="dialogues, as prep reads them")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has TRL")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument("--dialogues", type=int, default=48, help="training dialogues")
    parser.add_argument("--runs", type=int, default=3, help="of each contender")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a run")
    parser.add_argument("--accumulation", type=int, default=1, help="batches per optimizer step")
    parser.add_argument("--epoch", action="store_true", help="really run it, on --epoch-dialogues")
    parser.add_argument("--epoch-dialogues", type=int, default=400, help="dialogues of the epoch")
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    args = parser.parse_args()
    if min(args.dialogues, args.runs, args.accumulation, args.epoch_dialogues) < 1:
        sys.exit("counts must be at least 1")
    if args.steps < 2:
        sys.exit("--steps must be at least 2: the first is warm-up")
    if args.json and not args.json.parent.is_dir():
        sys.exit(f"--json {args.json}: there is no such folder")
    settings = Settings(
        dialogues=args.epoch_dialogues if args.epoch else args.dialogues,
        max_length=512,
        batch_size=8,
        accumulation=args.accumulation,
        steps=None if args.epoch else args.steps,
        epoch_dialogues=args.epoch_dialogues,
    )
    started = time.monotonic()
    packages = versions(args.peers_python, args.contenders)
    about = machine() | {name: version for name, version in packages.items() if version}
    print(*(f"{name} {value}" for name, value in about.items()), sep="; ", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.corpus, args.model, settings)
        peaks = [matmul_peak(folder)]
        runs: dict[str, list[Figures]] = {contender: [] for contender in args.contenders}
        for _ in range(args.runs):
            for contender, figures in runs.items():
                if contender == "project":
                    figures.append(run_project(folder, settings))
                else:
                    figures.append(run_peer(folder, settings, contender, args.peers_python))
                speed = f"{figures[-1].tokens_per_second:,.0f} tokens/s"
                print(
                    f"{time.monotonic() - started:.0f} s: {CONTENDERS[contender]}, {speed}",
                    file=sys.stderr,
                )
            peaks.append(matmul_peak(folder))
    if args.json:
        raw = {name: [asdict(run) for run in figures] for name, figures in runs.items()}
        content = about | {"settings": asdict(settings), "peaks": peaks, "runs": raw}
        args.json.write_text(json.dumps(content, indent=2) + "\n")
    print_tables(runs, peaks, settings, about["transformers"])


def machine() -> dict[str, Any]:
    """The processor, its cores that may be used, and what else keeps them busy."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = next((line for line in cpu.splitlines() if line.startswith("model name")), ":unknown")
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "bf16": " ".join(name for name in ("avx512_bf16", "amx_bf16") if name in cpu) or "none",
        "load before": os.getloadavg()[0],
    }


def versions(python: str, contenders: list[str]) -> dict[str, str | None]:
    """Return the versions of the peers' packages; end the run where one is missing."""
    try:
        found: dict[str, str | None] = json.loads(subprocess.check_output([python, "-c", VERSIONS]))
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError) as error:
        sys.exit(f"--peers-python {python}: {error}")
    needed = set(found) if {"trl", "trl-packed"} & set(contenders) else {"torch", "transformers"}
    if missing := sorted(name for name in needed if not found[name]):
        sys.exit(
            f"{python} has no {', '.join(missing)}: pip install -r benchmarks/requirements.txt "
            "(that file says how to do so beside the project's environment), and name that "
            "interpreter with --peers-python; or leave TRL out with --contenders."
        )
    return found


def prepare(folder: Path, corpus: Path, model: str, settings: Settings) -> None:
    """Lay out a folder as the project's own: parameters, lock, base model, prepared dialogues."""
    for path in (corpus, *([] if model == "gpt2-medium" else [Path(model) / "config.json"])):
        if not path.exists():
            sys.exit(f"{path} not found")
    write_params(folder, corpus.resolve(), settings)
    (folder / "requirements.lock").symlink_to(ROOT / "requirements.lock")
    run(folder, "prep", stage_command("prep"))
    train = folder / "data/prepared/train.jsonl"
    (folder / "models").mkdir()
    if model == "gpt2-medium":
        made = ("--dialogues", str(train), "--out", "models/base")
        run(folder, "gpt2_medium", [sys.executable, "-m", "benchmarks.gpt2_medium", *made])
    else:
        (folder / "models/base").symlink_to(Path(model).resolve())
    lines = train.read_bytes().splitlines(keepends=True)
    if len(lines) < settings.dialogues:
        sys.exit(f"{corpus} has {len(lines)} training dialogues; wanted {settings.dialogues}")
    train.write_bytes(b"".join(lines[: settings.dialogues]))
    validation = train.with_name("val.jsonl")  # encode wants one, and is not timed on more
    validation.write_bytes(validation.read_bytes().splitlines(keepends=True)[0])
    train.with_name("dropped.jsonl").write_bytes(b"")


def write_params(folder: Path, corpus: Path, settings: Settings) -> None:
    """The project's parameters, with the settings' batches and steps, on every core."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {"path": str(corpus), "max_dialogues": None}
    params["encoding"]["max_length"] = settings.max_length
    params["train"] |= {
        "batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "epochs": 1,
        "max_steps": settings.steps,
        "mixed_precision": "bf16",
    }
    params["num_threads"] = len(os.sched_getaffinity(0))
    yaml.dump(params, folder / "params.yaml")


def stage_command(stage: str) -> list[str]:
    """Return the command that dvc.yaml has for a stage, by this interpreter."""
    command = shlex.split(own_stages()[stage]["cmd"].removeprefix("exec "))
    return [sys.executable, *command[1:]]


def run_project(folder: Path, settings: Settings) -> Figures:
    """Encode and train, as DVC does."""
    encode_seconds, _ = run(folder, "project", stage_command("encode"))
    train_seconds, peak_gb = run(folder, "project", stage_command("train"))
    timing = json.loads((folder / "metrics/timing.json").read_text())["train"]
    train = json.loads((folder / "metrics/train.json").read_text())
    tokens = json.loads((folder / "metrics/encode.json").read_text())["num_tokens"]
    with (folder / "metrics/train_log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    if len(log) < 2:
        sys.exit("this project trained one step only, which is warm-up: raise --dialogues")
    speed = timing["tokens_per_second"]
    seconds = encode_seconds + train_seconds
    first, measured = timing["first_step_seconds"], timing["seconds"] - timing["first_step_seconds"]
    losses = [(float(step["num_target_tokens"]), float(step["loss"])) for step in log]
    return Figures(
        tokens_per_second=speed,
        processed_per_second=timing["row_tokens_per_second"],
        first_step_seconds=first,
        epoch_seconds=epoch_seconds(
            settings, seconds, measured, train["num_target_tokens"], losses[0][0], speed
        ),
        peak_gb=peak_gb,
        losses=losses,
        num_target_tokens=train["num_target_tokens"],
        share_cut=tokens["truncated"] / tokens["input"],
    )


def run_peer(folder: Path, settings: Settings, peer: str, python: str) -> Figures:
    """Tokenise and train in one process, as its users do."""
    out = folder / f"{peer}.json"
    arguments = {
        "--model": folder / "models/base",
        "--dialogues": folder / "data/prepared/train.jsonl",
        "--max-length": settings.max_length,
        "--batch-size": settings.batch_size,
        "--accumulation": settings.accumulation,
        **({"--steps": settings.steps} if settings.steps else {}),
        "--out": out,
    }
    options = [str(part) for pair in arguments.items() for part in pair]
    seconds, peak_gb = run(folder, peer, [python, "-m", "benchmarks.train_peers", peer, *options])
    figures = json.loads(out.read_text())
    first, *steps = figures["steps"]
    if not steps:
        sys.exit(f"{peer} trained one step only, which is warm-up: raise --dialogues")
    measured = sum(step["seconds"] for step in steps)
    speed = sum(step["num_target_tokens"] for step in steps) / measured
    num_targets = figures["num_target_tokens"]
    return Figures(
        tokens_per_second=speed,
        processed_per_second=sum(step["num_processed_tokens"] for step in steps) / measured,
        first_step_seconds=first["seconds"],
        epoch_seconds=epoch_seconds(
            settings, seconds, measured, num_targets, first["num_target_tokens"], speed
        ),
        peak_gb=peak_gb,
        losses=[(step["num_target_tokens"], step["loss"]) for step in figures["steps"]],
        num_target_tokens=num_targets,
        share_cut=figures["share_cut"],
    )


def epoch_seconds(
    settings: Settings,
    seconds: float,
    measured: float,
    num_targets: int,
    first_step_targets: float,
    tokens_per_second: float,
) -> float:
    """Return the seconds of a whole epoch, as it was or extrapolated from the measured steps.

    Extrapolated, it is all but the measured steps, and the epoch's other tokens at their speed.

    ``seconds`` of the run hold ``measured``, the steps from the second on.
    """
    if settings.steps is None:
        return seconds
    epoch_targets = num_targets * settings.epoch_dialogues / settings.dialogues
    return seconds - measured + (epoch_targets - first_step_targets) / tokens_per_second


def matmul_peak(folder: Path) -> dict[str, float]:
    """``flops_per_second`` and the ``num_weights`` that they were measured on."""
    out = folder / "peak.json"
    options = ["--model", "models/base", "--out", str(out)]
    run(folder, "matmul_peak", [sys.executable, "-m", "benchmarks.matmul_peak", *options])
    peak: dict[str, float] = json.loads(out.read_text())
    return peak


def run(folder: Path, name: str, command: list[str]) -> tuple[float, float]:
    """Run a process in the folder: its wall seconds, and gigabytes of its maximum resident set.

    What it prints goes to a file; where it fails, the end of that ends this run.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / f"compiled-{name}"),
    }
    log = folder / f"{name}.log"
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    code = process.returncode
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()[-3:]
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        sys.exit("\n".join((f"{name} ended with {how}{hint}:", *lines)))
    return seconds, usage.ru_maxrss / 1e6


if __name__ == "__main__":
    # So that a run that is stopped leaves no process and no folder behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
