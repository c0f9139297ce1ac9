"""Progress at a pipe: plain lines, not too many, with what is left."""

from __future__ import annotations

import re

import pytest

from tuning.progress import SECONDS_PER_LINE, Bar


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


def test_what_is_not_shown_says_nothing(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with Bar("train", "steps", 3, shown=False) as bar:
        clock[0] += 60
        bar.update()
        bar.say("a word")
    assert capfd.readouterr() == ("", "")
