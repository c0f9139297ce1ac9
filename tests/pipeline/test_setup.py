"""Set-up: one call gives a working .venv, the next does nothing, and every failure names its cause.

The real setup.sh runs with real pip in a clone whose lock names one small wheel, made on the spot.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SETUP = Path(__file__).parents[2] / "setup.sh"
BASH = shutil.which("bash") or "bash"


def make_wheel(folder: Path, version: str, *, needs: str = "") -> None:
    """A wheel ``pocket`` whose only command, ``pocket``, prints the wheel's version."""
    required = f"Requires-Dist: {needs}\n" if needs else ""
    info = f"pocket-{version}.dist-info"
    files: dict[str, str | bytes] = {
        "pocket.py": f"def main():\n    print('pocket {version}')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: pocket\nVersion: {version}\n{required}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\npocket = pocket:main\n",
    }
    write_wheel(folder / f"pocket-{version}-py3-none-any.whl", info, files)


def make_big_wheel(folder: Path, num_bytes: int) -> None:
    """A wheel ``lining`` of at least so many bytes, as torch's CUDA packages are big."""
    info = "lining-1.0.dist-info"
    files: dict[str, str | bytes] = {
        "lining.bin": os.urandom(num_bytes),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: lining\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    write_wheel(folder / "lining-1.0-py3-none-any.whl", info, files)


def write_wheel(path: Path, info: str, files: dict[str, str | bytes]) -> None:
    record = f"{info}/RECORD"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(record, "".join(f"{name},,\n" for name in [*files, record]))


class SlowIndex(SimpleHTTPRequestHandler):
    """A folder on loopback; what is big comes a megabyte a second."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while chunk := source.read(250_000):
            outputfile.write(chunk)
            if len(chunk) == 250_000:
                time.sleep(0.25)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def slow_index(tmp_path: Path) -> Iterator[str]:
    """The address of an index with ``pocket`` 3.0, which needs ``lining``, a wheel of 7 MB."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, "3.0", needs="lining")
    make_big_wheel(folder, 7_000_000)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SlowIndex, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Clone:
    """A clone with a space in its name, and the environment in which its set-up runs."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my clone"
        self.root.mkdir()
        shutil.copy(SETUP, self.root)
        subprocess.run(["git", "init", "--quiet", self.root], check=True)
        self.pin("1.0")
        wheels = folder / "wheels"
        wheels.mkdir()
        make_wheel(wheels, "1.0")
        make_wheel(wheels, "2.0")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "GIT_"))}
        self.env = inherited | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_INDEX": "1",
            "PIP_RETRIES": "1",
            "GIT_CEILING_DIRECTORIES": str(folder),
        }
        for chosen in ("PYTHON", "TUNING_VENV"):
            self.env.pop(chosen, None)

    @property
    def stamp(self) -> Path:
        return self.root / ".venv/installed.txt"

    def pin(self, version: str) -> None:
        (self.root / "requirements.lock").write_text(f"pocket=={version}\n")

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BASH, self.root / "setup.sh"],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def set_up(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start()
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def set_up_on_a_terminal(self) -> str:
        """All that is shown there; it must succeed."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [BASH, self.root / "setup.sh"], env=self.env, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            try:
                while chunk := terminal.read(4096):
                    shown += chunk
            except OSError:  # so Linux says that the other end is closed
                pass
        assert process.wait(timeout=300) == 0
        return shown.decode()

    def progress(self, log: str) -> str:
        """Return what setup.sh would show while pip's log so far is this."""
        (self.root / ".venv/install.log").write_text(log)
        functions = """eval "$(sed '/^cd /d; /^check_git$/,$d' setup.sh)" """
        state = 'from_venv=$(printf "%s.dist-info\\n" pip-23.2.1 setuptools-65.5.0)'
        command = [BASH, "-c", f"{functions}; {state}; describe_progress"]
        return subprocess.run(
            command, cwd=self.root, env=self.env, check=True, capture_output=True, text=True
        ).stdout.strip()

    def pocket(self) -> str:
        command = self.root / ".venv/bin/pocket"
        return subprocess.run([command], check=True, capture_output=True, text=True).stdout.strip()

    def restrict_path(self, folder: Path, *tools: str) -> None:
        """Leave only these tools on PATH, so that none of this machine's Pythons is found."""
        folder.mkdir()
        for tool in tools:
            target = shutil.which(tool)
            assert target is not None
            (folder / tool).symlink_to(target)
        self.env["PATH"] = str(folder)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.fixture(scope="module")
def used_clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tests that take it follow each other: an environment takes seconds to make."""
    return Clone(tmp_path_factory.mktemp("setup"))


def modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def write_script(path: Path, body: str) -> None:
    path.write_text(f"#!{BASH}\n{body}\n")
    path.chmod(0o755)


def test_of_two_set_ups_at_once_one_installs_and_the_other_waits(used_clone: Clone) -> None:
    processes = [used_clone.start(), used_clone.start()]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("done" in output for output in outputs) == 1
    assert sum("waiting" in output for output in outputs) == 1
    assert used_clone.pocket() == "pocket 1.0"


def test_the_next_call_changes_nothing_and_a_new_lock_reinstalls(used_clone: Clone) -> None:
    before = modification_times(used_clone.root)
    assert used_clone.set_up() == (0, "", "")
    assert modification_times(used_clone.root) == before

    used_clone.pin("2.0")
    assert used_clone.set_up()[0] == 0
    assert used_clone.pocket() == "pocket 2.0"


def test_a_moved_folder_is_set_up_again(used_clone: Clone) -> None:
    used_clone.root = used_clone.root.rename(used_clone.root.with_name("moved"))
    assert used_clone.set_up()[0] == 0
    assert used_clone.pocket() == "pocket 2.0"


def test_a_borrowed_environment_is_used_but_never_changed(
    used_clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(used_clone.env, "TUNING_VENV", str(used_clone.stamp.parent))
    assert used_clone.set_up() == (0, "", "")

    before = modification_times(used_clone.stamp.parent)
    used_clone.pin("1.0")
    code, _, error = used_clone.set_up()
    assert code == 1
    assert "TUNING_VENV" in error
    assert modification_times(used_clone.stamp.parent) == before


def test_an_unreachable_index_is_named_as_the_cause(
    used_clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_clone.pin("9.9")
    monkeypatch.delitem(used_clone.env, "PIP_NO_INDEX")
    monkeypatch.setitem(used_clone.env, "PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    code, _, error = used_clone.set_up()
    assert code == 1
    assert "Connection refused" in error
    assert not used_clone.stamp.exists()


def test_a_failed_install_shows_the_cause_and_counts_as_none(used_clone: Clone) -> None:
    code, _, error = used_clone.set_up()
    assert code == 1
    assert "No matching distribution found for pocket==9.9" in error
    assert not used_clone.stamp.exists()


def test_a_failed_and_a_killed_set_up_are_repaired_by_the_next(used_clone: Clone) -> None:
    """The one before has failed."""
    used_clone.pin("1.0")
    (used_clone.root / ".venv/bin/python").unlink()
    process = used_clone.start()
    while not (used_clone.root / ".venv/bin/python").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not used_clone.stamp.exists()

    assert used_clone.set_up()[0] == 0
    assert used_clone.pocket() == "pocket 1.0"


def test_a_download_that_the_lock_does_not_name_is_seen_to_move(
    clone: Clone, slow_index: str
) -> None:
    clone.pin("3.0")
    clone.env["PIP_FIND_LINKS"] = slow_index
    clone.env["PIP_NO_CACHE_DIR"] = "1"
    shown = clone.set_up_on_a_terminal()
    found = re.findall(r"set-up: fetching what torch needs besides, package 1, (\d+) MB, ", shown)
    sizes = [int(size) for size in found]
    assert len(set(sizes)) > 1 and sizes == sorted(sizes) and sizes[-1] <= 7
    assert all(int(done) <= int(of) for done, of in re.findall(r" (\d+) of (\d+) ", shown))
    assert clone.pocket() == "pocket 3.0"
    assert not (clone.stamp.parent / "downloads").exists()


def test_progress_counts_what_is_really_installed(clone: Clone) -> None:
    """The lock names one package, and that needs two more; two came with the environment."""
    packages = clone.stamp.parent / "lib/python3.12/site-packages"
    fetching = (
        "# fetching\nCollecting pocket==1.0\n  Downloading pocket-1.0.whl.metadata (1 kB)\n"
        "  Downloading pocket-1.0.whl (12 kB)\nInstalling build dependencies: started\n"
    )
    installing = f"{fetching}Installing collected packages: pocket\n"
    checking = f"{installing}Successfully installed\n# checking\nRequirement already satisfied: p\n"
    besides = (
        f"{checking}Collecting lining (from pocket)\n  Using cached lining-1.0.whl (581.2 MB)\n"
        "Collecting zip (from lining)\n  Downloading zip-1.0.whl (3 MB)\n"
    )
    for name in ("pip-23.2.1", "setuptools-65.5.0", "pocket-1.0"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    texts = [clone.progress(log) for log in (fetching, installing, checking, besides)]
    (packages / "lining-1.0.dist-info").mkdir()
    texts.append(clone.progress(f"{besides}Installing collected packages: zip, lining\n"))
    texts.append(clone.progress(f"{besides}# compiling\n"))
    assert [re.sub(r"\d+ MB", "N MB", text) for text in texts] == [
        "fetching package 1 of 1, N MB",
        "installed 1 of 1 packages, N MB",
        "checking what the 1 packages need besides",
        "fetching what torch needs besides, package 2, N MB",
        "installed 2 of 3 packages, N MB",
        "compiling 3 packages",
    ]


def test_an_old_python_gets_one_clear_line(clone: Clone, tmp_path: Path) -> None:
    clone.restrict_path(tmp_path / "bin", "dirname", "git")
    write_script(tmp_path / "bin/python3", "echo 3.9")
    assert clone.set_up() == (
        1,
        "",
        "set-up: needs Python 3.11 to 3.13; found python3 which is 3.9. "
        "Install one, or name it: PYTHON=/path/to/python3.12 make …\n",
    )


def test_no_python_gets_one_clear_line(clone: Clone, tmp_path: Path) -> None:
    clone.restrict_path(tmp_path / "bin", "dirname", "git")
    code, _, error = clone.set_up()
    assert code == 1
    assert error.startswith("set-up: needs Python 3.11 to 3.13; found no python3.")
    assert error.count("\n") == 1


def test_a_python_without_venv_names_the_missing_module(clone: Clone, tmp_path: Path) -> None:
    clone.restrict_path(tmp_path / "bin", "dirname", "git")
    write_script(tmp_path / "bin/python3", "[[ $2 == *version_info* ]] && echo 3.12")
    code, _, error = clone.set_up()
    assert code == 1
    assert "python3 without its venv module" in error
    assert "python3.12-venv" in error
    assert error.count("\n") == 1


def test_a_missing_git_gets_one_clear_line(clone: Clone, tmp_path: Path) -> None:
    clone.restrict_path(tmp_path / "bin", "dirname")
    assert clone.set_up() == (1, "", "set-up: git was not found; install it first.\n")


def test_a_folder_that_is_no_git_repository_gets_one_clear_line(clone: Clone) -> None:
    shutil.rmtree(clone.root / ".git")
    code, _, error = clone.set_up()
    assert code == 1
    assert "DVC needs a git repository" in error
    assert error.count("\n") == 1
