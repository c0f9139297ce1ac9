"""After a power cut at the worst moment, a disk holds what was there before or what replaces it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a file's name")


def after_cuts(folder: Path, lines: list[str]) -> list[dict[str, str]]:
    """What a folder holds after a power cut at each rename and deletion of some Python, and after.

    Each file by its path, with the SHA-256 of what is left of it.
    """
    code = folder.with_name("code")
    code.mkdir()
    (code / "writes.py").write_text("\n".join(["from pathlib import Path", *lines]))
    log = folder.with_name("log")
    command = [sys.executable, "-m", "tests.power_cut", str(folder), str(log), "writes"]
    path = {"PYTHONPATH": f"{ROOT}:{code}"}
    subprocess.run(command, cwd=folder, env=path, check=True, timeout=60)
    return [json.loads(line) for line in log.read_text().splitlines()]


def of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.mark.parametrize(
    "line",
    [
        "Path('.x.tmp').write_text('new'); Path('.x.tmp').replace('x')",  # no fsync at all
        "import os; f = open('.x.tmp', 'w'); f.write('new'); os.fsync(f.fileno()); f.close(); "
        "Path('.x.tmp').replace('x')",  # fsync before Python has written
    ],
)
def test_who_does_not_wait_loses(folder: Path, line: str) -> None:
    """The disk of these tests is a bad one."""
    (folder / "x").write_text("old")
    during, after = after_cuts(folder, [line])
    assert during["x"] != of("new")
    assert after["x"] == of("old")


def test_a_file_is_the_old_one_or_the_new_one_and_then_the_new_one(folder: Path) -> None:
    (folder / "x").write_text("old")
    lines = [
        "from tuning.run.files import write_text",
        "write_text(Path('x'), 'new')",
        "write_text(Path('a/b/c'), 'below')",
    ]
    *cuts, last = after_cuts(folder, lines)
    assert len(cuts) == 2
    assert all(cut["x"] in (of("old"), of("new")) for cut in cuts)
    assert all(cut.get("a/b/c") in (None, of("below")) for cut in cuts)
    assert last == {"x": of("new"), "a/b/c": of("below")}


@pytest.mark.parametrize("is_new", [True, False])
def test_a_folder_is_whole_before_the_old_one_goes(folder: Path, is_new: bool) -> None:
    if not is_new:
        (folder / "out").mkdir()
        (folder / "out" / "old").write_text("old")
    lines = [
        "from tuning.run.files import new_folder",
        "with new_folder(Path('out')) as out:",
        "    (out / 'a').write_text('a')",
        "    (out / 'below' / 'it').mkdir(parents=True)",
        "    (out / 'below' / 'it' / 'b').write_text('b')",
    ]
    *cuts, last = after_cuts(folder, lines)
    whole = {"a": of("a"), "below/it/b": of("b")}
    assert len(cuts) == 1 if is_new else 2
    for cut in cuts:
        (place,) = {name.partition("/")[0] for name in cut}
        assert place in ("out", ".out.tmp")
        assert cut == {f"{place}/{name}": sha256 for name, sha256 in whole.items()}
    assert last == {f"out/{name}": sha256 for name, sha256 in whole.items()}
