"""``python -m tools.compare`` in this process, for the tests of both of its tables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.compare.__main__ import main

Command = Callable[..., str]


def command_in(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Go into the project; return what runs the command there and gives what it printed."""
    monkeypatch.chdir(project)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare", *arguments])
        main()
        return capsys.readouterr().out

    return run
