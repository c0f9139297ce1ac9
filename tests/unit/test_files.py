"""Files appear whole or not at all; a stage ends with the exit code that DVC must see."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.thorough import few_or_all
from tuning.run.files import (
    new_folder,
    sha256_of,
    weights_sha256,
    write_csv,
    write_json,
    write_text,
)
from tuning.run.timing import read_timing, record_timing

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_not_json_and_leaves_the_old_file(
    tmp_path: Path, value: float
) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": 2.5, "nested": {"perplexity": value}})
    assert path.read_text() == '{\n  "loss": 1.5\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": {"d": 2, "c": 3}})
    write_json(tmp_path / "b.json", {"a": {"c": 3, "d": 2}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_text_is_utf8_with_unix_line_ends_in_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "x.txt", "a\nb\r\n☺")
    assert (tmp_path / "new" / "x.txt").read_bytes() == b"a\nb\r\n\xe2\x98\xba"


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
@settings(max_examples=few_or_all(30))
def test_floats_in_a_table_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    write_csv(path, ["step", "loss", "numpy"], ([1, v, np.float64(v)] for v in values))
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "loss", "numpy"]
    assert [[float(cell) for cell in row[1:]] for row in rows] == [[v, v] for v in values]
    assert b"\r" not in path.read_bytes()


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for name in ("old", "new"):
        with new_folder(path) as folder:
            (folder / name).write_text(name)
            assert not (path / name).exists()
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_leaves_nothing_behind_and_the_old_one_in_place(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "out"
    with new_folder(path) as folder:
        (folder / "old").write_text("whole")
    with pytest.raises(error), new_folder(path) as folder:
        (folder / "half").write_text("written")
        raise error
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "old").read_text() == "whole"
    assert not (path / "half").exists()


def test_what_a_killed_stage_left_behind_is_gone_after_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "out"
    lines = [
        "import os, signal",
        "from pathlib import Path",
        "from tuning.run.files import new_folder",
        f"with new_folder(Path({str(path)!r})) as folder:",
        "    (folder / 'half').write_text('written')",
        "    os.kill(os.getpid(), signal.SIGKILL)",
    ]
    killed = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    with new_folder(path) as folder:
        (folder / "whole").touch()
    assert list(tmp_path.rglob("*")) == [path, path / "whole"]


def test_hashes_are_of_bytes_and_weights_include_names(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, names in ((one, "ab"), (other, "ba")):
        folder.mkdir()
        for name, content in zip(names, "xy", strict=True):
            (folder / f"{name}.safetensors").write_text(content)
    assert weights_sha256(one) != weights_sha256(other)
    before = weights_sha256(one)
    (one / "config.json").write_text("{}")
    assert weights_sha256(one) == before


def test_git_takes_nothing_of_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    lines = [
        "import os",
        "from pathlib import Path",
        "from tuning.run.files import new_folder",
        f"with new_folder(Path({str(tmp_path)!r}, 'models', 'finetuned')) as folder:",
        "    (folder / 'model.safetensors').write_text('weights')",
        "    os._exit(9)",
    ]
    killed = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT)
    assert killed.returncode == 9 and (tmp_path / "models/.finetuned.tmp").is_dir()
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    found = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "?? .gitignore\n"


def run_main(body: str, *, kill_with: int | None = None) -> tuple[int, str, str]:
    """Run a stage whose ``main`` has this body; its exit code, stdout and stderr."""
    lines = [
        "import signal, time",
        "from tuning.run.errors import UserError",
        "from tuning.run.process import run_stage",
        # A shell starts background jobs with SIGINT ignored; these tests may be one.
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "def main() -> None:",
        f"    {body}",
        "run_stage('prep', main)",
        "print('published')",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if kill_with is not None:
                assert process.stdout is not None
                assert "started\n" in iter(process.stdout.readline, "")
                process.send_signal(kill_with)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, out, err


def test_a_users_mistake_is_one_message_and_exit_code_1() -> None:
    code, out, err = run_main("raise UserError('x.json is empty.')")
    assert (code, out, err) == (1, "", "\nprep: x.json is empty.\n")


def test_a_file_that_cannot_be_read_is_named_without_a_traceback() -> None:
    code, out, err = run_main("open('/no/such/file')")
    assert (code, out, err) == (1, "", "\nprep: No such file or directory (/no/such/file)\n")


def test_a_full_disk_that_a_library_meets_is_one_message() -> None:
    code, out, err = run_main("raise RuntimeError('OSError: [Errno 28] No space left on device')")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"\nprep: No space left on device: [\d,]+ bytes free in .*\n", err)


def test_our_own_mistake_keeps_its_traceback() -> None:
    code, out, err = run_main("assert 1 == 2, 'a dialogue is in no bucket'")
    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert "a dialogue is in no bucket" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_stage_does_not_exit_with_0(number: int, code: int) -> None:
    returned, out, err = run_main("print('started', flush=True); time.sleep(60)", kill_with=number)
    assert (returned, out) == (code, "")
    assert "run the same command again to continue" in err
    assert "Traceback" not in err


def test_an_interrupted_import_is_one_message(tmp_path: Path) -> None:
    lines = [
        "import os, signal",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "import tuning",
        "os.kill(os.getpid(), signal.SIGINT)",
    ]
    (tmp_path / "interrupted").mkdir()
    (tmp_path / "interrupted/__init__.py").write_text("\n".join(lines))
    ended = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    message = "\ninterrupted; run the same command again to continue.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", message)


def test_a_stage_that_ends_well_exits_with_0() -> None:
    assert run_main("pass") == (0, "published\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_has_ended_well_is_not_stopped(number: int) -> None:
    """What libraries do at the exit is cut short, without a traceback."""
    # In naps: Python calls no handler of a signal that comes just before one until that one ends.
    at_exit = "lambda: [print('started', flush=True), [time.sleep(0.01) for _ in range(6000)]]"
    assert run_main(f"import atexit; atexit.register({at_exit})", kill_with=number) == (0, "", "")


@pytest.mark.parametrize("content", ["", "[1]", '{"train": 3}', "<<<<<<< HEAD\n{}\n=======\n{}\n"])
def test_broken_figures_of_time_stop_no_run(tmp_path: Path, content: str) -> None:
    path = tmp_path / "timing.json"
    path.write_text(content)
    assert read_timing(path) == {}
    record_timing(path, "train", {"seconds": 1.5})
    assert read_timing(path) == {"train": {"seconds": 1.5}}
