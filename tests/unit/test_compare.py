"""Two revisions of a real git and DVC repository: what is compared, refused and said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare_command import Command, command_in
from tools.compare.__main__ import NUM_RESAMPLES, SEED, as_text, revisions
from tools.compare.comparison import Comparison, Row, compare
from tools.compare.page import as_html, parse_samples
from tools.compare.revisions import Evaluation, read_evaluations
from tuning.results.dialogue_table import Column, as_rows
from tuning.run.errors import UserError
from tuning.run.files import write_csv, write_json, write_text

ROOT = Path(__file__).parents[2]
NUM_DIALOGUES = 40
IDS = [f"dialogue {number}" for number in range(NUM_DIALOGUES)]
PIPELINE = """
stages:
  eval:
    cmd: >-
      exec python -m stages.eval
      --metrics results/eval.json
      --dialogues results/dialogues.csv
      --samples results/samples.md
    metrics:
      - results/eval.json:
          cache: false
    plots:
      - results/dialogues.csv:
          cache: false
    outs:
      - results/samples.md
"""
SAMPLES = """# Validation dialogues

## <b>one</b>

**Prompt**

- speaker 1: `hello`

**Model**

- speaker 2: `{reply}`

"""


def evaluation(
    shift: float = 0.0,
    *,
    seed: int = 0,
    spread: float = 0.0,
    ids: list[str] = IDS,
    text: str = "a" * 64,
    tokenizer: str | None = "1" * 64,
    template: str | None = "speakers",
    version: int | None = 1,
    full: bool = True,
    blocks: str = "b" * 64,
) -> Evaluation:
    """A synthetic one: ``shift`` is in nats per byte, ``spread`` what a seed adds to it."""
    dialogues, run = np.random.default_rng(7), np.random.default_rng([8, seed])
    size = len(ids)
    num_bytes = dialogues.integers(200, 900, size)
    difficulty = dialogues.uniform(0.6, 1.0, size)
    noise = spread * run.normal() + run.normal(0.0, 0.002, size)
    table: dict[str, Column] = {
        "num_responses": dialogues.integers(3, 12, size),
        "num_ends": dialogues.integers(3, 12, size),
        "num_bytes": num_bytes,
        "tuned_content_nll": num_bytes * (difficulty + shift + noise),
        "tuned_end_nll": 12.0 + run.normal(0, 1, size),
        "tuned_num_tokens": num_bytes // 4,
    }
    if full:
        table["tuned_alone_nll"] = num_bytes * (difficulty + 0.2)
        table["num_context_items"] = np.full(size, 2)
        table["tuned_context_hits"] = dialogues.integers(0, 3, size)
    scored = {
        "num_dialogues": size,
        "text_sha256": text,
        "blocks_sha256": blocks,
        "metric_version": version,
    }
    identity = {"tokenizer_sha256": tokenizer, "template": template}
    metrics = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in (("set", scored), ("tuned", identity))
    }
    return Evaluation(f"run {seed}", str(seed), metrics, ids, table, SAMPLES.format(reply="hi"))


def row(comparison: Comparison, name: str) -> Row:
    return next(one for one in comparison.rows if one.headline.name == name)


def compared(a: list[Evaluation], b: list[Evaluation], seed: int = 0) -> Comparison:
    return compare(a, b, num_resamples=500, seed=seed)


# One side against another


def test_a_against_a_is_exactly_0() -> None:
    comparison = compared([evaluation()], [evaluation()])
    assert [one.headline.name for one in comparison.rows] == [
        "bits_per_byte",
        "perplexity",
        "bits_per_byte_with_ends",
        "end_of_turn_nll",
        "history_gain",
        "context_identification",
    ]
    for one in comparison.rows:
        assert one.change is not None
        change = one.change
        assert (change.value, change.low, change.high, change.standard_error) == (0, 0, 0, 0)
        is_judged = one.headline.name != "history_gain"
        assert one.verdict == ("no difference shown" if is_judged else "no verdict")


@pytest.mark.parametrize(
    ("shift", "bits"), [(-0.02, "better"), (0.02, "worse"), (0.0, "no difference shown")]
)
def test_the_verdict_is_about_b(shift: float, bits: str) -> None:
    a, b = (
        [evaluation(one, seed=n) for n in seeds]
        for one, seeds in ((0.0, range(3)), (shift, range(3, 6)))
    )
    assert row(compared(a, b), "bits_per_byte").verdict == bits
    comparison = compared(a[:1], b[:1])
    found = row(comparison, "bits_per_byte")
    assert found.change is not None
    assert found.change.value == pytest.approx(shift / np.log(2), abs=0.002)
    assert found.change.detectable == 2.8 * found.change.standard_error > 0
    assert found.verdict == ("differ" if shift else bits)
    assert found.num_dialogues == len(IDS)
    assert row(comparison, "history_gain").verdict == "no verdict"


def test_rows_are_paired_by_id_not_by_place() -> None:
    a = evaluation()
    turned = replace(
        a,
        commit="turned",
        dialogue_ids=IDS[::-1],
        table={name: column[::-1] for name, column in a.table.items()},
    )
    change = row(compared([a], [turned]), "bits_per_byte").change
    assert change is not None
    assert (change.low, change.high) == (0, 0)


def test_twenty_nine_dialogues_are_too_few() -> None:
    comparison = compared([evaluation(ids=IDS[:29])], [evaluation(-0.3, seed=1, ids=IDS[:29])])
    meant = {one.verdict for one in comparison.rows if one.change}
    assert meant == {"too few dialogues (under 30)"}
    assert {one.cells[4] for one in comparison.rows if one.change} == {"29"}


def test_sides_that_declare_different_headlines_are_refused() -> None:
    a, b = evaluation(), evaluation(seed=1)
    declares = {**b.metrics, "set": {**b.metrics["set"], "primary": "recall"}}
    with pytest.raises(UserError, match=r"run 0 \(bits_per_byte\) and run 1 \(recall\) declare"):
        compared([a], [replace(b, metrics=declares)])


def test_no_context_identification_across_blocks() -> None:
    comparison = compared([evaluation()], [evaluation(blocks="c" * 64)])
    found = row(comparison, "context_identification")
    assert (found.change, found.verdict) == (None, "blocks differ")
    assert row(comparison, "bits_per_byte").change is not None


@pytest.mark.parametrize(
    ("name", "total", "hits", "reason"),
    [
        ("recall", "num_recall_items", "recall_hits", "questions differ"),
        ("right_calls", "num_call_places", "right_calls", "places differ"),
        ("needless_calls", "num_word_places", "needless_calls", "places differ"),
    ],
)
def test_nothing_is_compared_across_different_questions_or_places(
    name: str, total: str, hits: str, reason: str
) -> None:
    def asked(count: int, *, order: int = 1) -> Evaluation:
        one = evaluation(ids=IDS[::order])
        size = len(one.dialogue_ids)
        questions = {total: np.full(size, count), f"tuned_{hits}": np.ones(size)}
        return replace(one, table={**one.table, **questions})

    assert row(compared([asked(2)], [asked(2, order=-1)]), name).change is not None
    found = row(compared([asked(2)], [asked(4)]), name)
    assert (found.change, found.verdict) == (None, reason)
    old = row(compared([evaluation()], [asked(4)]), name)
    assert (old.change, old.verdict) == (None, "not measured on side A")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"tokenizer": "2" * 64}, "tokenizers differ"),
        ({"tokenizer": None}, "tokenizer not recorded"),
        ({"template": "plain"}, "templates differ"),
        ({"template": "plain_text"}, "templates differ"),
    ],
)
def test_no_perplexity_across_tokenizers_or_templates(other: Any, reason: str) -> None:
    comparison = compared([evaluation()], [evaluation(-0.02, seed=1, **other)])
    found = row(comparison, "perplexity")
    assert found.change is None
    assert found.cells[2:] == ["–", "–", "–", reason]
    assert found.a != found.b
    assert row(comparison, "bits_per_byte").verdict == "differ"


@pytest.mark.parametrize(("old", "new"), [("speaker_tokens", "speakers"), ("plain_text", "plain")])
def test_a_template_by_its_old_name_is_the_same_template(old: str, new: str) -> None:
    before, after = evaluation(template=old), evaluation(-0.02, seed=1, template=new)
    for comparison in (compared([before], [after]), compared([before], [after, before])):
        assert row(comparison, "perplexity").change is not None
    renamed = evaluation(template=new)
    assert compared([before], [after]).rows == compared([renamed], [after]).rows


def test_older_evaluations_compare_by_what_both_have() -> None:
    comparison = compared([evaluation(full=False, version=None)], [evaluation(-0.02, seed=1)])
    assert row(comparison, "bits_per_byte").verdict == "differ"
    assert row(comparison, "history_gain").cells[0] == "–"
    assert row(comparison, "history_gain").verdict == "not measured on side A"


def test_different_sets_are_refused_with_what_differs() -> None:
    other = evaluation(seed=1, ids=IDS[:30], text="b" * 64)
    message = r"the text \(aaaaaaaaaaaa… and bbbbbbbbbbbb…\); the number of dialogues \(40 and 30\)"
    with pytest.raises(UserError, match=message):
        compared([evaluation()], [other])
    with pytest.raises(UserError, match=r"definition of the metrics \(1 and 2\)"):
        compared([evaluation(version=None)], [evaluation(seed=1, version=2)])
    with pytest.raises(UserError, match="the ids of the dialogues"):
        compared([evaluation()], [evaluation(seed=1, ids=[*IDS[1:], "another"])])


# Several seeds


def test_the_spread_between_seeds_widens_the_interval() -> None:
    """One seed against one looks like a finding; three against three show that seeds differ."""
    a = [evaluation(0.0, seed=seed, spread=0.02) for seed in range(3)]
    b = [evaluation(0.0, seed=seed, spread=0.02) for seed in range(3, 6)]
    single = row(compared(a[:1], b[:1]), "bits_per_byte")
    several = row(compared(a, b), "bits_per_byte")
    assert single.verdict == "differ"
    assert several.verdict == "no difference shown"
    assert single.change is not None
    assert several.change is not None
    assert several.change.standard_error > 3 * single.change.standard_error


def test_the_error_of_few_seeds_is_unbiased() -> None:
    """Where nothing but the seed differs, it is √(s²/S + s²/S) with s² over S − 1."""
    table = evaluation().table

    def run(seed: int, shift: float) -> Evaluation:
        nll: Column = np.asarray(table["tuned_content_nll"] + shift * table["num_bytes"])
        return replace(evaluation(), commit=str(seed), table={**table, "tuned_content_nll": nll})

    shifts = np.random.default_rng(0).normal(0, 0.05, (2, 3))
    sides = [[run(seed, shift) for seed, shift in enumerate(side)] for side in shifts]
    change = row(compare(*sides, num_resamples=4000, seed=0), "bits_per_byte").change
    expected = np.sqrt((shifts.var(axis=1, ddof=1) / 3).sum()) / np.log(2)
    assert change is not None
    assert change.standard_error == pytest.approx(expected, rel=0.05)
    assert change.value == pytest.approx((shifts[1].mean() - shifts[0].mean()) / np.log(2))


def test_the_notes_say_what_the_interval_covers() -> None:
    runs = [evaluation(seed=seed) for seed in range(6)]
    single, uneven, several = (
        as_text(compared(runs[:a], runs[a:b])) for a, b in ((1, 2), (1, 4), (3, 6))
    )
    single, uneven, several = (" ".join(text.split()) for text in (single, uneven, several))
    assert "at least 3 runs a side" in single and "at least 3 runs a side" in uneven
    assert "at least 3 runs a side" not in several
    assert "four times out of five" in several and "four times out of five" not in uneven
    text = uneven
    assert "1 on side A, 3 on side B" in text
    assert "unknown on the side with one run" in text


def test_one_run_is_not_two_seeds_whatever_it_is_called() -> None:
    """A commit of its documentation, or the working tree, holds the same model again."""
    run, other = evaluation(), evaluation(seed=1)
    for again in (run, replace(run, label="workspace", commit="workspace")):
        with pytest.raises(UserError, match="are one run, twice on a side"):
            compared([other], [run, again])


def test_a_side_of_several_configurations_is_said_to_be_none() -> None:
    rates = [
        replace(evaluation(seed=n), params={"train.learning_rate": rate, "seed": str(n)})
        for n, rate in enumerate(("1e-4", "1e-4", "3e-4", "3e-4"))
    ]
    same = " ".join(compared(rates[:2], rates[2:]).notes)
    mixed = " ".join(compared(rates[:2], rates[1:3]).notes)
    assert "no single configuration" not in same
    assert "Side B is no single configuration" in mixed and "Side A is no" not in mixed
    assert "differ in train.learning_rate." in mixed


def test_the_headline_that_decides_by_itself_is_named() -> None:
    def declaring(name: str, seed: int) -> Evaluation:
        one = evaluation(seed=seed)
        return replace(one, metrics={**one.metrics, "set": {**one.metrics["set"], "primary": name}})

    for name, said in (("perplexity", ": perplexity."), ("recall", ": recall, which was not")):
        notes = compared([declaring(name, 0)], [declaring(name, 1)]).notes
        assert said in notes[0]


def test_the_text_fits_a_terminal() -> None:
    runs = [evaluation(seed=seed) for seed in range(6)]
    for a, b in ((runs[:1], runs[1:2]), (runs[:3], runs[3:])):
        assert max(map(len, as_text(compared(a, b)).splitlines())) <= 80


def test_the_same_seed_gives_the_same_text() -> None:
    a, b = [evaluation()], [evaluation(seed=1)]
    assert as_text(compared(a, b)) == as_text(compared(a, b))
    assert as_text(compared(a, b)) != as_text(compared(a, b, seed=1))


# The page


class Tags(HTMLParser):
    """Tags, and values of attributes that would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.loads: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset")]


def test_the_page_holds_the_table_and_is_escaped_and_self_contained() -> None:
    hostile = "</p><script>alert(1)</script>"
    a = replace(evaluation(), label='</title><img src="x">')
    b = replace(evaluation(-0.02, seed=1), samples=SAMPLES.format(reply=hostile))
    comparison = compared([a], [b])
    page = as_html(comparison)
    tags = Tags()
    tags.feed(page)
    assert not tags.found & {"script", "img", "b", "link", "iframe"}
    assert tags.loads == []
    assert "url(" not in page and "@import" not in page
    for one in comparison.rows:
        assert one.headline.title in page
        assert all(f">{cell}</span>" in page for cell in one.cells)
    assert page.count("speaker 1: hello") == 1  # equal on both sides
    assert "speaker 2: hi<" in page
    assert "speaker 2: &lt;/p&gt;&lt;script&gt;" in page
    assert "<h3>&lt;b&gt;one&lt;/b&gt;</h3>" in page
    assert "<dd>&lt;/title&gt;&lt;img src=&#34;x&#34;&gt;</dd>" in page


def test_samples_that_are_not_there_are_said_to_be_missing() -> None:
    a, b = evaluation(), replace(evaluation(seed=1), samples=None)
    assert "DVC's cache has none of run 1" in as_html(compared([a], [b])).replace("&#39;", "'")
    other = replace(b, samples=SAMPLES.format(reply="x").replace("one", "two"))
    assert "continued no dialogue in common" in as_html(compared([a], [other]))


def test_what_only_one_side_has_stands_beside_a_dash() -> None:
    a = evaluation()
    b = replace(evaluation(seed=1), samples=(a.samples or "").replace("Model", "</h4>"))
    page = as_html(compared([a], [b]))
    assert "<h4>Model, A</h4>" in page and "<h4>Model, B</h4>" in page
    assert page.count(">–</p>") == 1
    page = as_html(compared([b], [a]))
    assert "<h4>&lt;/h4&gt;, A</h4>" in page


def test_the_page_reads_the_samples_that_eval_writes() -> None:
    from tuning.dialogue import Turn
    from tuning.results.samples import Sample, samples_as_markdown

    sample = Sample("id 1", (Turn("x", "a\nb"),), (Turn("y", "`c`: d"),), (Turn("y", "e"),))
    assert parse_samples(samples_as_markdown([sample])) == {
        "id 1": [
            ("Prompt", ["speaker 1: a / b"]),
            ("Model", ["speaker 2: 'c': d"]),
            ("People", ["speaker 2: e"]),
        ]
    }


# A real repository


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tags ``first``, ``second``, ``tokenizer``, ``text``, ``none``, ``broken``; an experiment."""
    path = tmp_path_factory.mktemp("compare") / "my project"
    path.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }

    def run(*command: str) -> None:
        result = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    def commit(tag: str) -> None:
        run("git", "add", ".")
        run("git", "commit", "--quiet", "--message", tag)
        run("git", "tag", tag)

    run("git", "init", "--quiet", "--initial-branch", "main")
    run("git", "config", "user.email", "test@localhost")
    run("git", "config", "user.name", "test")
    run("dvc", "init", "--quiet")
    write_text(path / "dvc.yaml", "stages: {}\n")
    commit("none")
    write_text(path / "dvc.yaml", PIPELINE)
    write(path, evaluation(), "first")
    run("dvc", "commit", "--quiet", "--force")
    commit("first")
    write(path, evaluation(seed=1, tokenizer="2" * 64), "first")
    commit("tokenizer")
    write(path, evaluation(seed=1, text="b" * 64), "first")
    commit("text")
    write_text(path / "results/eval.json", "{")
    commit("broken")
    write(path, evaluation(-0.02, seed=1), "second")
    run("dvc", "commit", "--quiet", "--force")
    commit("second")
    write(path, evaluation(-0.04, seed=2), "second")
    run("dvc", "exp", "save", "--name", "deeper", "--force")
    write(path, evaluation(0.02, seed=3), "third")
    return path


def write(path: Path, one: Evaluation, reply: str) -> None:
    write_json(path / "results/eval.json", one.metrics)
    write_csv(path / "results/dialogues.csv", *as_rows(one.dialogue_ids, one.table))
    write_text(path / "results/samples.md", SAMPLES.format(reply=reply))


@pytest.fixture
def command(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command in the project; what it printed."""
    return command_in(project, monkeypatch, capsys)


def verdict_on_bits(text: str) -> str:
    """The sign of the change, and the verdict."""
    line = next(line for line in text.splitlines() if line.startswith("bits per byte "))
    found = re.fullmatch(r".* ([-+])\d\S+ +\[.*\] +\d+ +(\w+)", line)
    assert found is not None, line
    return f"{found[1]} {meaning(text, found[2])}"


def meaning(text: str, mark: str) -> str:
    """What a mark in the table's last column stands for."""
    explained = re.search(rf"^{mark}: (.*)$", text, re.M)
    return mark if explained is None or mark == "differ" else explained[1]


def test_commits_against_each_other(command: Command) -> None:
    assert verdict_on_bits(command("first", "second")) == "- differ"
    assert verdict_on_bits(command("second", "first")) == "+ differ"
    assert "B  second (" in command("first", "second")


def test_one_revision_is_compared_with_the_working_tree(command: Command) -> None:
    text = command("first")
    assert "B  the working tree" in text
    assert verdict_on_bits(text) == "+ differ"
    assert command("first", "workspace") == text


def test_branches_experiments_and_short_hashes(command: Command, project: Path) -> None:
    assert verdict_on_bits(command("main", "deeper")) == "- differ"
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD~1"], cwd=project, capture_output=True, text=True
    ).stdout.strip()
    with pytest.raises(UserError, match=rf"results/eval.json of {head} is no evaluation"):
        command(head, "main")
    assert verdict_on_bits(command("HEAD", "main")) == "+ no difference shown"


def test_the_test_sets_are_compared_when_that_is_asked_for(
    command: Command, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what the release left; where there is none, that is said."""
    stage = """  release:
    cmd: python -m stages.release --test-metrics a.json --test-dialogues a.csv
    outs:
      - a.json: {cache: false}
      - a.csv: {cache: false}
"""
    write_text(clone / "dvc.yaml", PIPELINE + stage)
    write_json(clone / "a.json", {"set": {"num_dialogues": 0, "text_sha256": ""}})
    write_csv(clone / "a.csv", ("dialogue_id",), [])
    for tag, one in (("empty", None), ("low", evaluation(-0.05)), ("high", evaluation(0.05))):
        if one is not None:
            write_json(clone / "a.json", {"base": {}} | dict(one.metrics))
            write_csv(clone / "a.csv", *as_rows(one.dialogue_ids, one.table))
        git(clone, "add", ".")
        git(clone, "commit", "--quiet", "--message", tag)
        git(clone, "tag", tag)
    monkeypatch.chdir(clone)
    found = command("--test", "low", "high")
    assert verdict_on_bits(found) == "+ differ"
    assert "The test set was used" in found and max(map(len, found.splitlines())) <= 80
    assert verdict_on_bits(command("low", "high")) == "+ no difference shown"
    for tag, why in (
        ("empty", "no scores of a test set"),
        ("first", "before there were test sets"),
    ):
        with pytest.raises(UserError, match=f"{tag} .*{why}"):
            command("--test", "low", tag)
    page = clone / "page.html"
    command("--test", "low", "high", "--html", str(page))
    assert "Sample dialogues" not in page.read_text(encoding="utf-8")
    (clone / "a.json").unlink()
    with pytest.raises(UserError, match=r"workspace has no a\.json that can be read.*dvc pull"):
        command("--test", "low", "workspace")
    with pytest.raises(SystemExit):
        command("--test", "--table", "low")
    with pytest.raises(SystemExit):
        command("low", "high", "--html", str(clone))


def test_several_seeds_are_joined_by_commas(command: Command) -> None:
    text = command("first", "second,deeper")
    assert "1 on side A, 2 on side B" in text
    assert verdict_on_bits(text) == "- differ"
    with pytest.raises(UserError, match="a revision is missing"):
        revisions("first,,second")


def test_it_works_from_a_folder_of_the_project(
    command: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = command("first", "second")
    monkeypatch.chdir(project / "results")
    assert command("first", "second") == text


def test_perplexity_is_refused_across_tokenizers(command: Command) -> None:
    text = command("first", "tokenizer")
    *_, change, interval, number, mark = next(
        line.split() for line in text.splitlines() if line.startswith("perp")
    )
    assert (change, interval, number) == ("–", "–", "–")
    assert meaning(text, mark) == "tokenizers differ"


def test_samples_come_from_dvcs_cache(command: Command, project: Path, tmp_path: Path) -> None:
    command("first", "second", "--html", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "speaker 2: first" in page and "speaker 2: second" in page
    assert (project / "results/samples.md").read_text(encoding="utf-8").count("third") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "first"), "'nowhere' is no commit, branch, tag or experiment"),
        (("first:dvc.yaml", "first"), "'first:dvc.yaml' is no commit"),
        (("HEAD^{tree}", "first"), "is no commit, branch, tag or experiment"),
        (("none", "first"), "dvc.yaml of none has no stage named eval"),
        (("broken", "first"), "results/eval.json of broken is no evaluation"),
        (("first", "text"), r"first \(\w{7}\) and text \(\w{7}\) were not evaluated on the same"),
        (("first", "second,second"), "are one run, twice on a side"),
    ],
)
def test_a_mistake_is_one_message(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        command(*arguments)


def test_a_working_tree_without_an_evaluation(
    command: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = project / "results/eval.json"
    evaluated.rename(project / "away")
    try:
        with pytest.raises(UserError, match=r"workspace has no results/eval\.json"):
            command("first")
    finally:
        (project / "away").rename(evaluated)


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is in no DVC repository"):
        read_evaluations(["main"])


def test_the_command_itself(project: Path) -> None:
    """One message, exit code 1, no traceback; torch and transformers are not loaded."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "tools.compare", "nowhere"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.strip().startswith("compare: 'nowhere' is no commit")
    assert "Traceback" not in result.stderr
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json, sys, tools.compare; print(json.dumps(sorted(sys.modules)))",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "transformers", "wandb"} & set(json.loads(loaded.stdout))


def test_what_a_terminal_cannot_show_is_spelled(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = run_compare(project, "first", "second")
    assert result.returncode == 0, result.stderr
    assert "\\u0394" in result.stdout


def test_the_draws_are_fixed(command: Command) -> None:
    a, b = read_evaluations(["first"]), read_evaluations(["second"])
    expected = as_text(compare(a, b, num_resamples=NUM_RESAMPLES, seed=SEED))
    assert command("first", "second") == expected


# A stranger's branch


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Path:
    """A clone without a cache, for branches that are made and never checked out again."""
    git(tmp_path, "clone", "--quiet", str(project), "clone")
    folder = tmp_path / "clone"
    git(folder, "config", "user.email", "test@localhost")
    git(folder, "config", "user.name", "test")
    return folder


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def add_branch(clone: Path, files: dict[str, str]) -> None:
    """A branch ``theirs`` of ``second`` with these files; the one of before is checked out."""
    git(clone, "checkout", "--quiet", "-b", "theirs", "second")
    for name, text in files.items():
        write_text(clone / name, text)
    git(clone, "add", "--force", *files)
    git(clone, "commit", "--quiet", "--message", "theirs")
    git(clone, "checkout", "--quiet", "main")


def run_compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    names = ("DVC_", "GIT_", "AWS_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    return subprocess.run(
        [sys.executable, "-m", "tools.compare", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_the_configuration_of_a_revision_is_not_obeyed(
    clone: Path, tmp_path: Path, scheme: str
) -> None:
    """DVC fetched what it named: a branch could send keys to a server, and run a program."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        settings = {
            "http": f"url = {address}/data\n",
            "s3": f"url = s3://theirs/data\nendpointurl = {address}\nconfigpath = {clone}/aws\n",
        }
        write_text(clone / "aws", f"[default]\ncredential_process = touch {tmp_path}/was-run\n")
        remote = f"[core]\nremote = theirs\n['remote \"theirs\"']\n{settings[scheme]}"
        add_branch(clone, {".dvc/config": remote})
        result = run_compare(clone, "second", "theirs", "--html", str(tmp_path / "page.html"))
        server.shutdown()
    assert result.returncode == 0, result.stderr
    assert asked == []
    assert not (tmp_path / "was-run").exists()
    assert "cache has none of second" in (tmp_path / "page.html").read_text(encoding="utf-8")


def bomb(item: str) -> str:
    """YAML that becomes 9^20 values where its aliases are followed; ``item`` lists some."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {item % ', '.join([f'*a{n - 1}'] * 9)}" for n in range(1, 20)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("text", [bomb("[%s]"), bomb("{<<: [%s]}")], ids=["lists", "merged keys"])
def test_a_bomb_of_aliases_in_a_revision_takes_no_time(clone: Path, text: str) -> None:
    lock = (clone / "dvc.lock").read_text(encoding="utf-8")
    add_branch(clone, {"dvc.yaml": text + PIPELINE, "dvc.lock": text + lock})
    result = run_compare(clone, "second", "theirs")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dvc.yaml", "[" * 200_000, "dvc.yaml of theirs has no stage named eval"),
        ("dvc.yaml", "stages: {eval: {cmd: [a, b]}}", "dvc.yaml of theirs has no stage named eval"),
        ("dvc.yaml", 'stages: {eval: {cmd: "\'"}}', "dvc.yaml of theirs has no stage named eval"),
        ("dvc.yaml", PIPELINE.replace("results/eval", "../eval"), r"theirs has no ../eval.json"),
        ("dvc.yaml", PIPELINE.replace("results/eval", "/etc/eval"), r"has no /etc/eval.json"),
        ("results/eval.json", "[" * 200_000, "eval.json of theirs is no evaluation"),
        ("results/eval.json", '{"set": ["text_sha256"], "tuned": {}}', "is no evaluation"),
        (
            "results/eval.json",
            '{"set": {"text_sha256": ""}, "tuned": {"template": [[]]}}',
            "is no evaluation",
        ),
        (
            "results/dialogues.csv",
            f"dialogue_id\n{'x' * 200_000}",
            "dialogues.csv of theirs cannot be read",
        ),
    ],
)
def test_what_a_revision_holds_is_at_worst_one_message(
    clone: Path, name: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_branch(clone, {name: text})
    monkeypatch.chdir(clone)
    with pytest.raises(UserError, match=message):
        read_evaluations(["theirs"])
