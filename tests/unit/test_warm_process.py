"""Forks that stand for starts; test_training_failures.py compares what a stage leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm_process import READ_LATE, warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks elsewhere are not safe")
ROOT = Path(__file__).parents[2]
WHAT_IS_SEEN = """
import os, sys
from pathlib import Path
print(sys.argv, sys.path[0], Path.cwd(), sorted(os.environ), sys.warnoptions, sys.stdin.read())
print("to stderr", file=sys.stderr)
"""


def run(python: str, *words: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = subprocess.run(
        [python, *words],
        cwd=folder,
        env=os.environ | environment,
        input="typed",
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stdout, result.stderr


def test_it_has_loaded_torch_and_nothing_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start in an environment that torch reads as it is loaded is a real one."""
    own = json.loads(Path(warm("environment.json")).read_bytes())
    for name in [name for name in os.environ if not name.startswith(READ_LATE)]:
        monkeypatch.delenv(name)  # what other tests have left here
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert run(warm("python"), "-m", "stages.score", "--help", folder=ROOT)[0] == 0
    words = ("-c", "import sys; print(*(name in sys.modules for name in ('torch', 'tuning')))")
    assert run(warm("python"), *words, folder=tmp_path) == (0, "True False\n", "")
    real = run(warm("python"), *words, folder=tmp_path, OMP_NUM_THREADS="3")
    assert real == (0, "False False\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ("-c", WHAT_IS_SEEN, "a b", "--c"),
        ("-u", "-c", WHAT_IS_SEEN),
        ("-c", "import sys; sys.exit('a word')"),
        ("-c", f"import os; os.kill(os.getpid(), {signal.SIGKILL})"),
        ("-m", "stages.show", "a b", "--c"),
        ("-m", "stages.missing"),
    ],
)
def test_a_command_sees_and_does_what_it_would(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The project is that of its own folder, wherever the tests' is."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/show.py").write_text(WHAT_IS_SEEN)
    variables = {"PYTHONWARNINGS": "error,ignore::ResourceWarning", "TUNING_SAID": "é"}
    real, forked = (
        run(python, *words, folder=tmp_path, **variables)
        for python in (sys.executable, warm("python"))
    )
    assert forked == real
