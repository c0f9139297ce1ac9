"""Ids, names and texts of strangers forge nothing, steer nothing and flood nothing."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.corpora import as_record, generated
from tools.compare.page import parse_samples
from tools.show import find
from tuning.dialogue import Dialogue, Turn, to_line
from tuning.release.origins import source_of_data, source_of_model
from tuning.results.dialogue_table import as_rows, from_csv
from tuning.results.samples import Sample, samples_as_markdown
from tuning.run.files import write_csv, write_text
from tuning.run.visible import MAX_NAME, as_name, visible

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a\n\n## forged\n\n**Model**\n\n- speaker 1: `yes`",
    "a\rb",
    "a\u2028b",
    "a\x85b",
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "a\u200bb",
    "a\0b",
    "a\ud800b",
    "=HYPERLINK(1)",
    "+1+cmd|' /C calc'!A0",
    "-1",
    "@SUM(1)",
    "\t=1",
    "a|b",
    "`id`",
    "[click](javascript:alert(1))",
    "x" * 131_072,
    "x" * 131_073,
    as_name("a\nb"),
    "a\nb",
)
PLAIN = (
    "0",
    "3f0c52a9-7ff1-4c1e-8b4b-3a1f1d1a2b3c",
    "data/chats.parquet:17~2#3",
    "dialogue 7",
    "Zoë & 李雷's chat [a] (2)",
    "x" * MAX_NAME,
    "",
)
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert as_name(name) == name


def test_hostile_names_are_neutral_short_and_stay_different() -> None:
    names = [as_name(name) for name in HOSTILE]
    assert len({*names}) == len(HOSTILE)
    for name in names:
        assert not UNSEEN.search(name) and not re.search(r"[<>|`]|\]\(|^[=+@-]", name), name
        assert len(name) <= MAX_NAME + 13


@given(st.text(st.characters(), max_size=8))
def test_any_name_is_one_printable_line(text: str) -> None:
    assert as_name(text).isprintable()
    assert len(as_name(text).splitlines()) <= 1
    assert visible(text, keep="\n").replace("\n", "").isprintable()


def test_a_table_of_hostile_ids_is_read_again_and_is_no_script(tmp_path: Path) -> None:
    """``dvc plots`` writes the table into a script of its page."""
    ids = [*HOSTILE, *PLAIN]
    numbers = np.arange(len(ids))
    table = {"num_responses": numbers, "num_bytes": numbers}
    write_csv(tmp_path / "table.csv", *as_rows(ids, table))
    text = (tmp_path / "table.csv").read_text(encoding="utf-8")
    found, columns = from_csv(text)
    assert found == [as_name(name) for name in ids] and (columns["num_bytes"] == numbers).all()
    assert not [row[0] for row in csv.reader(io.StringIO(text)) if row[0][:1] in [*"=+-@"]]
    plots = "plots:\n  - table.csv: {template: scatter, x: num_bytes, y: num_responses}\n"
    write_text(tmp_path / "dvc.yaml", plots)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*dvc, "plots", "show", "--out", "page"], cwd=tmp_path, check=True)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "alert(1)" in page and "<script>alert" not in page and "<img" not in page


@pytest.mark.parametrize("text", HOSTILE)
def test_samples_hold_no_more_sections_than_there_are(text: str) -> None:
    turns = (Turn(text, text),)
    markdown = samples_as_markdown([Sample(text, turns, turns, turns)])
    assert not UNSEEN.search(markdown.replace("\n", ""))
    [sections] = parse_samples(markdown).values()
    assert [title for title, _ in sections] == ["Prompt", "Model", "People"]
    assert all(len(lines) == 1 for _, lines in sections)


@pytest.mark.parametrize("name", ["a\n## Forged\n| b |", "a <b>|c", "\x1b[2J\u202e"])
def test_the_cards_titles_are_of_one_line(tmp_path: Path, name: str) -> None:
    for title in (
        source_of_model(f"models/{name}", None).title,
        source_of_data(tmp_path / name, {}).title,
    ):
        assert title.isprintable() and not set(title) & {*"<|"}


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\ud800" not in name])
def test_a_dialogue_is_found_by_the_name_that_tables_show(tmp_path: Path, name: str) -> None:
    turns = (Turn("a", "hi"), Turn("b", "ho"))
    lines = [to_line(Dialogue(one, turns)) for one in ("other", name)]
    write_text(tmp_path / "train.jsonl", "\n".join(lines) + "\n")
    for asked in (name, as_name(name)):
        assert find(asked, tmp_path)[0].dialogue_id == name


def run_prep(folder: Path, **data: object) -> subprocess.CompletedProcess[str]:
    """Run the stage in a folder of its own, as a user does."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["data"] |= {"path": "raw", **data}
    yaml.dump(params, folder / "params.yaml")
    write_text(folder / "requirements.lock", "")
    flags = ("--lock", "requirements.lock", "--hub", "hub")
    outputs = ("--prepared", "prepared", "--metrics", "prep.json", "--timing", "timing.json")
    return subprocess.run(
        [sys.executable, "-m", "stages.prep", *flags, *outputs],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "TUNING_WORKERS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )


@pytest.mark.parametrize("on_invalid", ["error", "skip"])
def test_names_of_files_keys_and_ids_do_not_reach_the_terminal_as_they_are(
    tmp_path: Path, on_invalid: str
) -> None:
    """Progress and the list of faults named them; a terminal obeys ``ESC``."""
    steer = "\x1b]0;title\x07\x1b[2J\u202e"
    records = [as_record(one) | {f"key{steer}": 1, "id": steer} for one in generated(40)]
    (tmp_path / "raw").mkdir()
    write_text(tmp_path / "raw" / f"a{steer}\n.json", json.dumps(records))
    write_text(tmp_path / "raw" / f"b{steer}.json", f'[{{"{"k" * 40}": 1}}, 1, "{"x" * 131_072}"]')
    write_text(tmp_path / "raw" / f"c{steer}.md", "")
    result = run_prep(tmp_path, on_invalid=on_invalid)
    assert result.returncode == (on_invalid == "error"), result.stderr
    said = result.stdout + result.stderr
    assert "Traceback" not in said and "\\x1b]0;title\\x07" in said
    assert not UNSEEN.search(said.replace("\n", "").replace("\r", ""))
    assert max(map(len, said.splitlines())) < 5_000
    if on_invalid == "skip":
        ledger = (tmp_path / "prep.json").read_text(encoding="utf-8")
        assert (
            "key" in ledger
            and "\\u001b" not in ledger
            and "\\u202e" not in ledger.replace("\\\\u202e", "")
        )


def test_a_message_of_any_length_is_cut(tmp_path: Path) -> None:
    result = run_prep(tmp_path, path="x" * 200_000 + "\x1b[2J")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert len(result.stderr) < 10_000 and "\x1b" not in result.stderr
