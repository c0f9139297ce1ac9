"""What this folder holds, and the commit that an experiment starts from does not."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tools.preflight.finding import Finding
from tuning.run.errors import UserError
from tuning.run.pipeline import own_stages

CODE = (".py", ".yaml", ".lock", ".toml", ".dvc", ".jinja")
NUM_NAMED = 5


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
