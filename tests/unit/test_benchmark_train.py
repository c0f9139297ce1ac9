"""The training benchmark counts what it says: tokens of a peer, equal tokens, a whole epoch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.train import epoch_seconds, stage_command
from benchmarks.train_peers import as_messages, main
from benchmarks.train_report import Settings, loss_at
from tuning.dialogue import Dialogue, Turn, to_line

DIALOGUES = [
    Dialogue(str(n), (Turn("ann", "hello " * n), Turn("bob", "hi"), Turn("ann", "bye")))
    for n in range(1, 9)
]


def test_a_peer_counts_every_token_but_the_first_of_each_dialogue(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "train.jsonl", tmp_path / "out.json"
    file.write_text("".join(to_line(dialogue) + "\n" for dialogue in DIALOGUES))
    paths = ["--model", str(tiny_base), "--dialogues", str(file), "--out", str(out)]
    sizes = ["--batch-size", "2", "--accumulation", "2", "--max-length", "48"]
    monkeypatch.setattr(sys, "argv", ["train_peers", "trainer", *paths, *sizes])
    main()
    figures = json.loads(out.read_text())
    targets = [step["num_target_tokens"] for step in figures["steps"]]
    processed = [step["num_processed_tokens"] for step in figures["steps"]]
    assert len(targets) == 2
    assert sum(targets) == figures["num_target_tokens"]
    assert all(4 + n <= m <= 4 * 48 for n, m in zip(targets, processed, strict=True))
    assert 0 < figures["share_cut"] < 0.5


def test_speakers_are_user_and_assistant_by_their_first_turn() -> None:
    roles = [message["role"] for message in as_messages(DIALOGUES[0])]
    assert roles == ["user", "assistant", "user"]


def test_the_loss_at_equal_tokens_is_weighted_by_tokens() -> None:
    assert loss_at([(10, 4.0), (30, 2.0), (5, 9.0)], 40) == 2.5


def test_an_epoch_is_what_was_run_and_the_rest_at_its_speed() -> None:
    settings = Settings(
        dialogues=40, max_length=8, batch_size=8, accumulation=1, steps=3, epoch_dialogues=400
    )
    # 60 s, of which 20 s are measured steps; 1000 tokens in 40 dialogues, 100 in the first step
    assert epoch_seconds(settings, 60, 20, 1000, 100, 50) == 40 + 9900 / 50


@pytest.mark.parametrize("stage", ["prep", "encode", "train"])
def test_the_project_is_started_as_dvc_starts_it(stage: str) -> None:
    command = stage_command(stage)
    assert command[:3] == [sys.executable, "-m", f"stages.{stage}"]
    assert not [argument for argument in command if "$" in argument]
