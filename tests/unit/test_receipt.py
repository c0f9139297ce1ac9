"""A receipt says what a model is and was made from, and notices what is no longer so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tuning.release.receipt import RECEIPT, differences, make_receipt
from tuning.run.errors import UserError

PARAMS = {"seed": 1, "train": {"lora": {"rank": None}, "learning_rate": 1e-4}}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a receipt, made from ``data/a``, ``data/b/c`` and ``lock``."""
    monkeypatch.chdir(tmp_path)
    for name in ("model/weights", "model/sub/vocab", "data/a", "data/b/c", "lock"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    folder = Path("model")
    receipt = make_receipt(
        folder, [Path("data"), Path("lock")], PARAMS, {"device": "cpu"}, {"num_prompts": 2}
    )
    (folder / RECEIPT).write_text(json.dumps(receipt))
    return folder


def test_it_names_files_inputs_code_and_parameters(model: Path) -> None:
    receipt = json.loads((model / RECEIPT).read_text())
    assert receipt["files"].keys() == {"weights", "sub/vocab"}
    assert receipt["inputs"].keys() == {"data/a", "data/b/c", "lock"}
    assert "tuning/training/trainer.py" in receipt["code"]
    assert receipt["params"] == {"seed": 1, "train.lora.rank": None, "train.learning_rate": 1e-4}
    assert receipt["run"] == {"device": "cpu"}
    assert receipt["prompts"] == {"num_prompts": 2}
    assert differences(model, PARAMS) == []


def test_each_difference_is_a_line(model: Path) -> None:
    (model / "weights").write_text("tampered")
    (model / "sub/vocab").unlink()
    (model / "extra").write_text("")
    Path("data/a").unlink()
    Path("lock").write_text("newer")
    params = {"seed": 2, "train": {"lora": {"rank": 8}, "learning_rate": 1e-4}, "more": 1}
    kinds = [line.partition(": ")[::2] for line in differences(model, params)]
    assert [(name, text.partition(" ")[0]) for name, text in kinds] == [
        ("model file extra", "not"),
        ("model file sub/vocab", "not"),
        ("model file weights", "was"),
        ("input data/a", "not"),
        ("input lock", "was"),
        ("parameter more", "not"),
        ("parameter seed", "was"),
        ("parameter train.lora.rank", "was"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: that folder was not made by this pipeline"),
        ("{", "is no receipt: "),
        ("[]", "is no receipt of version 2"),
        ('{"version": 1}', "is no receipt of version 2"),
        ('{"version": 2}', "it has no files, inputs, code, params, run, prompts"),
        ("[" * 100_000, "is no receipt: "),
        ("\0" * 8, "is no receipt: "),
    ],
)
def test_without_a_receipt_there_is_one_message(
    model: Path, content: str | None, message: str
) -> None:
    (model / RECEIPT).unlink()
    if content is not None:
        (model / RECEIPT).write_text(content)
    with pytest.raises(UserError, match=message):
        differences(model, PARAMS)


def test_a_pipe_is_no_receipt(model: Path) -> None:
    (model / RECEIPT).unlink()
    os.mkfifo(model / RECEIPT)
    with pytest.raises(UserError, match=r"receipt\.json: wanted a file to read, found a pipe"):
        differences(model, PARAMS)


def test_a_receipt_must_have_its_sections(model: Path) -> None:
    receipt = json.loads((model / RECEIPT).read_text())
    (model / RECEIPT).write_text(json.dumps(receipt | {"files": ["weights"]}))
    with pytest.raises(UserError, match=r"is no receipt: it has no files\. Get it again"):
        differences(model, PARAMS)
