"""The checks before an hour is spent: would this run, or this experiment, do what is meant?

It prints a line per finding: an error (exit 1) for what would fail or do nothing, a warning for
the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Literal

from dvc.exceptions import InvalidArgumentError
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from hydra.errors import HydraException
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tuning.run.errors import UserError
from tuning.run.params import PARAMS_FILE, Params, load_params
from tuning.run.pipeline import own_stages
from tuning.run.process import run_stage
from tuning.run.visible import visible
from tuning.training.checkpoint import NUM_CHECKPOINTS_KEPT

MODELS_WRITTEN = 3
"""Training's, DVC's copy of it, and the released one, in the size of the base model in float32."""
MODELS_PER_CHECKPOINT = 3
"""Weights and AdamW's two moments."""
CODE = (".py", ".yaml", ".lock", ".toml", ".dvc", ".jinja")
NUM_NAMED = 5
TO_ENCODE = ("fetch", "prep", "encode")
"""encode and the stages before it."""
CUTTING = {"encoding.max_length", "encoding.min_context"}
"""Parameters that say how windows are cut, and not what is read in them."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and what to do."""

    kind: Literal["error", "warning"]
    text: str


def main() -> None:
    """Check everything and print the findings; exit 1 if one is an error."""
    parser = argparse.ArgumentParser(prog="python -m tools.preflight", description=__doc__)
    parser.add_argument(
        "-S",
        "--set-param",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="what dvc exp run is going to be given",
    )
    parser.add_argument("--base", type=Path, help="the base model's folder, for the disk's sake")
    args = parser.parse_args()
    params = load_params()
    findings = [*check_params(args.set_param)]
    if not any(finding.kind == "error" for finding in findings):
        findings += check_windows(args.set_param)
    findings += [
        *check_files(params.data.path),
        *check_device(params),
        *check_packages(params),
    ]
    if args.base is not None:
        findings += check_disk(args.base, params)
    for finding in findings:
        print(f"{finding.kind}: {visible(finding.text, keep=chr(10))}")
    if not findings:
        print("preflight: nothing is in the way.")
    sys.exit(any(finding.kind == "error" for finding in findings))


def check_params(overrides: Sequence[str]) -> Iterator[Finding]:
    """Read params.yaml as each run of the sweep would find it, with the stages' reader."""
    try:
        by_file = to_path_overrides(overrides)
        sweeps = get_hydra_sweeps(by_file)
    except (InvalidArgumentError, HydraException) as error:
        cause = str(error).splitlines()[0].rstrip(".")
        yield Finding("error", f"-S: {cause}; wanted section.key=value.")
        return
    for file in by_file.keys() - {PARAMS_FILE.name}:
        yield Finding("error", f"-S: no stage reads {file}; wanted keys of {PARAMS_FILE}.")
    said: set[str] = set()
    for sweep in sweeps:
        try:
            _params_with(sweep.get(PARAMS_FILE.name, []))
        except UserError as error:
            if str(error) not in said:
                said.add(str(error))
                yield Finding("error", str(error))
    declared = {name for stage in own_stages().values() for name in stage.get("params", [])}
    for override in by_file.get(PARAMS_FILE.name, []):
        key = override.partition("=")[0].lstrip("+~")
        if not said and not any(_overlap(key, name) for name in declared):
            yield Finding("warning", f"-S {key}: it changes no result, so no stage runs for it.")


def _params_with(overrides: Sequence[str]) -> Params:
    """Return the parameters of params.yaml with these values.

    Raises:
        UserError: the stages would refuse them, with their message.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PARAMS_FILE.name
        shutil.copyfile(PARAMS_FILE, copy)
        try:
            # Adds what is not there, at which dvc stops: the stages' reader knows what was meant.
            apply_overrides(copy, [f"++{each.lstrip('+')}" for each in overrides])
            return load_params(copy)
        except InvalidArgumentError as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"-S {' '.join(overrides)}: {cause}") from None
        except UserError as error:
            where = f"-S {' '.join(overrides)}: {PARAMS_FILE}" if overrides else str(PARAMS_FILE)
            raise UserError(str(error).replace(str(copy), where)) from None


def _overlap(key: str, name: str) -> bool:
    """Return whether one is the other, or a section that holds it."""
    return f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.")


def check_windows(overrides: Sequence[str]) -> Iterator[Finding]:
    """Find windows that cut off what stands before the targets, as the last encode counted it.

    That holds for the parameters that it ran with, and in part for others that differ only in how
    windows are cut.
    """
    from tuning.encoding.totals import cut_message

    if (found := _last_encode()) is None:
        return
    values, ledger = found
    enough = ledger["max_length_enough"]
    said: set[str] = set()
    for sweep in get_hydra_sweeps(to_path_overrides(overrides)):
        params = _params_with(sweep.get(PARAMS_FILE.name, []))
        length, text = params.encoding.max_length, ""
        changed = _changed(values, params)
        if not changed:
            text = cut_message(ledger, length)
        elif changed <= CUTTING and length < enough:
            text = (
                f"more than 2 % of the target tokens are in dialogues of more than {length:,} "
                "tokens, which are cut; encode counts those that do not see the whole turn before "
                f"them. encoding.max_length: {enough} would read all but 2 % of them in one window"
            )
        if text and text not in said:
            said.add(text)
            yield Finding("warning", f"{text}, by the last encode.")


def _last_encode() -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the parameters that encode and the stages before it last ran with, and its ledger.

    None where encode has not run, or the ledger is not the one that it left then.
    """
    metrics, lock = Path(next(iter(own_stages()["encode"]["metrics"][0]))), Path("dvc.lock")
    if not (metrics.exists() and lock.exists()):
        return None
    try:
        stages = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8"))["stages"]
    except (YAMLError, KeyError, TypeError):  # a merge's conflict: dvc says what it wants
        return None
    content = metrics.read_bytes()
    written = {"path": str(metrics), "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
    outs = stages.get("encode", {}).get("outs", [])
    if not any(written.items() <= out.items() for out in outs):
        return None
    ledger = json.loads(content)
    if "max_length_enough" not in ledger:  # an older encode's
        return None
    values: dict[str, Any] = {}
    for name in TO_ENCODE:
        values |= stages.get(name, {}).get("params", {}).get(PARAMS_FILE.name, {})
    return values, ledger


def _changed(values: Mapping[str, Any], params: Params) -> set[str]:
    """Return the keys whose values are others now; of ``encoding`` by themselves."""
    now = params.model_dump()
    changed = {
        name for name, value in values.items() if value != reduce(getitem, name.split("."), now)
    }
    if "encoding" in changed:
        changed.remove("encoding")
        sections = (values["encoding"], now["encoding"])
        changed |= {
            f"encoding.{key}"
            for key in sections[0].keys() | sections[1].keys()
            if sections[0].get(key) != sections[1].get(key)
        }
    return changed


def check_files(data: str) -> Iterator[Finding]:
    """Find what this folder holds and the commit that an experiment starts from does not."""
    others = _git("ls-files", "--others", "--exclude-standard")
    code = [name for name in others if name.endswith(CODE)]
    if code:
        names = " ".join(code[:NUM_NAMED]) + (" …" if len(code) > NUM_NAMED else "")
        yield Finding("warning", f"untracked, so experiments run without it: git add {names}")
    if Path(data).exists() and not _is_kept(data):
        yield Finding(
            "error",
            f"data.path: {data} is neither in git nor in DVC, so experiments and other clones lack "
            f"it: dvc add {shlex.quote(data)}",
        )


def _is_kept(data: str) -> bool:
    """Return whether git has it, a .dvc file (its own or a folder's above it), or a stage."""
    path = Path(data)
    outputs = {Path(out) for stage in own_stages().values() for out in stage["outs"]}
    places = (path, *path.parents)
    return (
        bool(_git("--literal-pathspecs", "ls-files", "--", data))
        or any(place in outputs for place in places)
        or any(place.with_name(f"{place.name}.dvc").is_file() for place in places if place.name)
    )


def _git(*arguments: str) -> list[str]:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError("git was not found; install it first.") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"git {arguments[0]}: {error.stderr.strip()}") from None
    return result.stdout.splitlines()


def check_device(params: Params) -> Iterator[Finding]:
    """Find what training would do without on this machine."""
    import torch

    from tuning.language_model.device import choose_device

    device = choose_device(
        precision=params.train.mixed_precision,
        compile_model=params.train.torch_compile,
        num_threads=params.num_threads,
    )
    for note in device.notes:
        yield Finding("warning", note)
    if device.kind == "cpu" and shutil.which("nvidia-smi"):
        how = "its driver does not answer" if torch.version.cuda else "torch is the CPU's build"
        yield Finding(
            "warning", f"there is an NVIDIA driver here, and {how}: training takes the CPU."
        )


def check_packages(params: Params) -> Iterator[Finding]:
    """Find packages that eval would miss only after training and scoring."""
    from tuning.report.relevance import encoder_folder

    if params.eval.relevance:
        try:
            encoder_folder()
        except UserError as error:
            yield Finding("error", str(error))


def check_disk(base: Path, params: Params) -> Iterator[Finding]:
    """Compare the free disk with what training writes: checkpoints, and the model three times."""
    size = float32_bytes(base)
    if not size:
        return  # not fetched yet
    checkpoints = (NUM_CHECKPOINTS_KEPT + 1) * MODELS_PER_CHECKPOINT  # one is being written
    if params.train.lora.rank is not None:
        checkpoints = 0  # adapters and two embeddings: far below the rest
    least, most = MODELS_WRITTEN * size, (MODELS_WRITTEN + checkpoints) * size
    free = shutil.disk_usage(".").free
    if free < least:
        yield Finding(
            "error", f"{free / 1e9:.1f} GB of disk are free; the models take {least / 1e9:.1f} GB."
        )
    elif free < most:
        yield Finding(
            "warning",
            f"{free / 1e9:.1f} GB of disk are free; models and checkpoints take up to "
            f"{most / 1e9:.1f} GB, and training goes on without checkpoints on a full disk.",
        )


def float32_bytes(base: Path) -> int:
    """Return the bytes of a model's weights in float32; 0 where there are none."""
    from safetensors import safe_open

    num_weights = 0
    for file in base.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118 # it is no dict
                num_weights += math.prod(weights.get_slice(name).get_shape())
    return 4 * num_weights


if __name__ == "__main__":
    run_stage("preflight", main)
