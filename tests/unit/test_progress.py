"""Progress at a pipe: plain lines, not too many, with what is left."""

from __future__ import annotations

import io
import re
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from tuning.progress import SECONDS_PER_LINE, Bar, growing, waiting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("tuning.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_says_what_is_left(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with Bar("score", "tokens", 2_000, initial=1_000) as bar:
        for _ in range(50):  # a second each, of twenty tokens
            clock[0] += 1
            bar.update(20, "loss 1.5")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 50 // SECONDS_PER_LINE
    assert lines[0] == "score: 1,200 of 2,000 tokens, 00:40 left, loss 1.5"
    assert lines[-1] == "score: 2,000 of 2,000 tokens, 00:00 left, loss 1.5"
    assert not re.search(r"[\r\x1b]", "".join(lines))


def test_without_a_total_it_counts(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with Bar("prep", "characters", None) as bar:
        clock[0] += SECONDS_PER_LINE
        bar.update(12_345)
        bar.say("a word")
    found = capfd.readouterr()
    assert (found.err, found.out) == ("prep: 12,345 characters\n", "prep: a word\n")


def test_what_says_nothing_of_the_rest_is_left_out_of_the_speed(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with Bar("train", "steps", 9) as bar:
        for seconds in (45, 10, 10):  # the first step compiles
            clock[0] += seconds
            bar.update(1, is_usual=seconds == 10)
    assert capfd.readouterr().err.splitlines() == [
        "train: 1 of 9 steps",
        "train: 2 of 9 steps, 01:10 left",
        "train: 3 of 9 steps, 01:00 left",
    ]


def test_what_is_left_is_not_said_before_anything_is_done(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with Bar("score", "tokens", 2_000) as bar:
        clock[0] += SECONDS_PER_LINE
        bar.update(0)
    assert capfd.readouterr().err == "score: 0 of 2,000 tokens\n"


def test_work_that_says_nothing_is_looked_at_from_beside(
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tuning.progress.SECONDS_PER_LOOK", 0.01)
    (tmp_path / "below").mkdir()
    (tmp_path / "here before").write_bytes(bytes(50))

    def wait_for(line: str) -> None:
        """A look may have begun before what it is to find."""
        found = ""
        for _ in range(500):
            clock[0] += SECONDS_PER_LINE
            time.sleep(0.02)
            found += capfd.readouterr().err
            if line in found:
                return
        raise AssertionError(found)

    with growing("fetch: a model", tmp_path, 300), redirect_stderr(io.StringIO()):
        (tmp_path / "below" / "part").write_bytes(bytes(100))
        wait_for("fetch: a model: 100 of 300 bytes, 00:")
        (tmp_path / "copy").write_bytes(bytes(1_000))  # of more than is counted
        wait_for("fetch: a model: 300 of 300 bytes, 00:00 left\n")
        (tmp_path / "copy").unlink()
    with waiting("eval"):
        wait_for(" seconds\n")


@pytest.mark.parametrize(("seconds", "stays"), [(0.5, False), (1.5, True)])
def test_a_bar_of_less_than_a_second_leaves_the_terminal_as_it_was(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, seconds: float, stays: bool
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with Bar("prep", "bytes", 7) as bar:
        bar.update(7)
        clock[0] += seconds
    last = terminal.getvalue().rstrip("\r").rpartition("\r")[2]
    assert ("prep: 100%" in last) == stays


def test_what_is_not_shown_says_nothing(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with Bar("train", "steps", 3, shown=False) as bar:
        clock[0] += 60
        bar.update()
        bar.say("a word")
    assert capfd.readouterr() == ("", "")
