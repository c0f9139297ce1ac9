"""Many runs in one table: pooled by seed, named by what differs, judged together, or left out."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare_command import Command, command_in
from tests.unit.test_compare import IDS, SAMPLES, Tags, bomb, compared, evaluation
from tests.unit.test_compare import row as row_of
from tools.compare.page import table_as_html
from tools.compare.revisions import Evaluation, read_evaluations
from tools.compare.table import Pair, RunTable, make_table
from tools.compare.table_text import as_records, as_text
from tuning.results.dialogue_table import Column, as_rows
from tuning.run.errors import UserError
from tuning.run.files import write_csv, write_json, write_text

TIMING = {
    "train": {"seconds": 600.0, "peak_memory_gb": 5.0},
    "score_tuned": {"seconds": 90.0},
    "score_base": {"seconds": 120.0},
}


def run(
    shift: float = 0.0,
    *,
    seed: int = 1,
    name: str | None = None,
    params: Mapping[str, str] | None = None,
    base: float = 0.1,
    **of_evaluation: Any,
) -> Evaluation:
    """A run whose learning rate tells its ``shift``; ``base`` is the base model's own shift."""
    noise = seed + round(1000 * abs(shift))
    one = evaluation(shift, seed=noise, **of_evaluation)
    untuned = evaluation(base, seed=999, ids=list(one.dialogue_ids)).table
    columns = {n.replace("tuned", "base"): c for n, c in untuned.items() if n.startswith("tuned")}
    return replace(
        one,
        label=name or f"run{shift:+.3f}-{seed}",
        commit=f"{shift} {seed} {name}",
        table={**one.table, **columns},
        metrics={**one.metrics, "base": {"tokenizer_sha256": "1" * 64, "template": "plain"}},
        params={
            "train.epochs": "3",
            "train.learning_rate": f"{1 + shift:.3f}",
            **(params or {}),
            "seed": str(seed),
        },
        training={"num_target_tokens": 1000, "first_loss": 3.0 + shift},
        timing=TIMING,
    )


def table_of(*runs: Evaluation, left_out: tuple[str, ...] = ()) -> RunTable:
    return make_table(runs, left_out, seed=0)


def names(table: RunTable) -> list[str]:
    return [row.configuration.name for row in table.rows]


def pair(table: RunTable, name: str) -> Pair:
    return next(one for one in table.pairs if one.name == name)


def verdicts(table: RunTable) -> dict[str, str]:
    return {one.name: one.verdict for one in table.pairs}


# Configurations


def test_runs_that_differ_by_the_seed_are_one_row_the_best_first() -> None:
    seeds = (1, 2, 10)
    table = table_of(*(run(shift, seed=seed) for shift in (0.05, 0.0) for seed in seeds))
    assert names(table) == ["base model", "train.learning_rate=1.000", "train.learning_rate=1.050"]
    assert [row.letter for row in table.rows] == ["A", "B", "C"]
    assert [row.cells(table.headline)[2] for row in table.rows] == ["–", "3", "3"]
    assert table.rows[1].configuration.revisions == [f"seed {n}: run+0.000-{n}" for n in seeds]
    runs = [run(0.05, seed=seed).table for seed in seeds]
    nats, num_bytes = (
        sum(float(one[name].sum()) for one in runs) for name in ("tuned_content_nll", "num_bytes")
    )
    assert table.rows[2].estimate.value == pytest.approx(nats / np.log(2) / num_bytes)
    assert table.text.startswith("6 runs of 2 configurations on the same 40 dialogues: ")


def test_a_metric_of_which_more_is_better_is_sorted_so() -> None:
    def with_hits(one: Evaluation, hits: float) -> Evaluation:
        scored = {**one.metrics["set"], "primary": "context_identification"}
        columns = {"base_context_hits": np.ones(40), "tuned_context_hits": np.full(40, hits)}
        return replace(one, metrics={**one.metrics, "set": scored}, table={**one.table, **columns})

    table = table_of(with_hits(run(), 1.5), with_hits(run(0.01), 2.0))
    assert [row.estimate.value for row in table.rows] == [0.5, 1.0, 0.75]
    assert table.title == "context identification (higher is better)"


def test_a_row_is_named_by_what_differs_and_by_nothing_else() -> None:
    table = table_of(
        run(0.01, params={"num_threads": "2", "data.path": "x"}),
        run(0.02, params={"num_threads": "2", "data.path": "x", "train.lora.rank": "8"}),
    )
    assert names(table)[1:] == [
        "train.learning_rate=1.010, train.lora.rank=–",
        "train.learning_rate=1.020, train.lora.rank=8",
    ]
    assert names(table_of(run(seed=1), run(seed=2)))[1:] == ["fine-tuned"]
    several = table_of(run(params={"num_threads": "2"}), run(seed=2, params={"num_threads": "8"}))
    assert set(names(several)[1:]) == {"num_threads=2", "num_threads=8"}


def test_a_seed_counts_once() -> None:
    """Else a run beside itself would look like seeds that agree."""
    twice = table_of(run(name="one"), run(name="again"), run(seed=2, name="two"))
    assert twice.rows[1].configuration.revisions == ["seed 1: one, again", "seed 2: two"]
    assert twice.rows[1].estimate == table_of(run(), run(seed=2)).rows[1].estimate
    rerun = replace(run(name="other code"), table=run(0.04).table)
    table = table_of(run(name="one"), run(seed=2, name="two"), rerun)
    assert [row.configuration.revisions for row in table.rows[1:]] == [
        ["seed 1: one", "seed 2: two"],
        ["seed 1: other code"],
    ]
    assert any("code, data or machines differ" in note for note in table.notes)
    assert not any("code, data or machines differ" in note for note in twice.notes)


def test_other_training_data_is_another_configuration() -> None:
    more = replace(run(seed=2), training={"num_target_tokens": 2000})
    assert len(table_of(run(), more).rows) == 3


def test_a_base_model_is_a_row_however_often_it_was_scored() -> None:
    runs = [run(0.01 * n, seed=n) for n in range(3)]
    nats: Column = np.asarray(runs[0].table["base_content_nll"] * 1.0001)
    close = {**runs[0].table, "base_content_nll": nats}
    assert names(table_of(*runs, replace(run(seed=4), table=close))).count("base model") == 1
    other = run(base=0.3, params={"model.name": "other"})
    table = table_of(run(params={"model.name": "first"}), other)
    assert names(table)[:2] == ["base model, model.name=first", "base model, model.name=other"]
    without = replace(run(), table={n: c for n, c in run().table.items() if "base" not in n})
    assert names(table_of(without)) == ["fine-tuned"]


# Pairs


def test_a_pair_is_what_compare_says_of_the_two() -> None:
    sides = [[run(shift, seed=n, spread=0.02) for n in range(4)] for shift in (0.0, 0.05)]
    table = table_of(*sides[0], *sides[1])
    ours, theirs = (
        pair(table, "C − B").change,
        row_of(compared(sides[0], sides[1]), "bits_per_byte").change,
    )
    assert ours is not None and theirs is not None
    assert ours.value == pytest.approx(theirs.value)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.15)
    assert verdicts(table) == {"B − A": "better", "C − A": "better", "C − B": "worse"}


def test_seeds_are_resampled_with_the_dialogues() -> None:
    one, several = (table_of(*(run(seed=n, spread=0.05) for n in range(m))) for m in (1, 6))
    errors = [pair(table, "B − A").change for table in (one, several)]
    assert errors[0] is not None and errors[1] is not None
    assert errors[1].standard_error > 3 * errors[0].standard_error


def test_a_configuration_is_called_better_with_three_runs_a_side() -> None:
    """A base model is the same for every seed, so no more of it are asked for."""
    good, bad = ([run(shift, seed=n) for n in range(3)] for shift in (0.0, 0.03))
    assert verdicts(table_of(*good, *bad)) == {
        "B − A": "better",
        "C − A": "better",
        "C − B": "worse",
    }
    assert verdicts(table_of(*good, *bad[:2])) == {
        "B − A": "better",
        "C − A": "differ",
        "C − B": "differ",
    }
    assert "at least 3 runs a side" in as_text(table_of(*good, *bad[:2])).replace("\n", " ")
    assert "at least 3 runs a side" not in as_text(table_of(*good, *bad)).replace("\n", " ")


def test_many_equal_models_are_seldom_told_apart() -> None:
    """Of 15 pairs one is outside its own interval in every other table; not by Holm's method."""
    by_interval = by_verdict = 0
    for trial in range(40):
        equal = [run(seed=100 * trial + n, params={"name": str(n)}) for n in range(6)]
        table = table_of(*equal)
        pairs = [one for one in table.pairs if not one.against.configuration.is_base]
        assert len(pairs) == 15
        changes = [one.change for one in pairs if one.change is not None]
        by_interval += any(not one.low <= 0 <= one.high for one in changes)
        by_verdict += any(one.verdict != "no difference shown" for one in pairs)
    assert by_interval > 12
    assert by_verdict <= 5


def test_forty_models_can_be_told_apart() -> None:
    """Holm's method asks 0.05 / 820 of the smallest p-value: there are resamples enough for it."""
    table = table_of(*(run(0.01 * n) for n in range(40)))
    assert len(table.pairs) == 820
    assert verdicts(table)["C − B"] == "differ"


def test_fewer_than_thirty_dialogues_have_intervals_and_no_verdict() -> None:
    table = table_of(run(ids=IDS[:29]), run(0.05, ids=IDS[:29]))
    assert set(verdicts(table).values()) == {"too few dialogues (under 30)"}
    assert all(one.change is not None and one.change.low < one.change.high for one in table.pairs)
    assert "\nC ? ?\n" in as_text(table)


def test_what_must_not_be_compared_has_the_reason_for_a_verdict() -> None:
    def declares(one: Evaluation) -> Evaluation:
        return replace(
            one, metrics={**one.metrics, "set": {**one.metrics["set"], "primary": "perplexity"}}
        )

    other = run(0.01, tokenizer="2" * 64)
    table = table_of(*map(declares, (run(), run(seed=2), other)))
    assert verdicts(table) == {
        "B − A": "templates differ",
        "C − A": "tokenizers differ",
        "C − B": "tokenizers differ",
    }
    assert pair(table, "C − B").cells(table.headline)[:2] == ["–", "–"]
    assert "\nC – –\n" in as_text(table)


# What is left out


def test_what_was_measured_otherwise_is_named_with_the_reason() -> None:
    no_lock = replace(run(name="unlocked"), params={})
    bare = replace(run(name="bare"), table=evaluation().table)
    bare = replace(bare, table={n: c for n, c in bare.table.items() if n != "tuned_content_nll"})
    declares = run(name="declares")
    scored = {**declares.metrics["set"], "primary": "recall"}
    declares = replace(declares, metrics={**declares.metrics, "set": scored})
    table = table_of(
        run(name="text", text="b" * 64, ids=IDS[:30]),
        run(name="newer", version=2),
        run(0.01),
        run(0.02),
        no_lock,
        bare,
        declares,
        left_out=("failed has no metrics/eval.json",),
    )
    assert len(table.rows) == 3
    assert table.left_out == [
        "failed has no metrics/eval.json",
        "unlocked: its dvc.lock does not say with which parameters it ran",
        "text: not what the table was measured on: the text (aaaaaaaaaaaa… and bbbbbbbbbbbb…); "
        "the number of dialogues (40 and 30)",
        "newer: not what the table was measured on: the definition of the metrics (1 and 2)",
        "declares: not what the table was measured on: the primary headline (bits_per_byte and "
        "recall)",
        "bare: bits_per_byte, its primary headline, is not in it",
    ]
    text = as_text(table)
    assert "Not in the table\n- failed has no" in text
    with pytest.raises(UserError, match="no run to put into a table.\nunlocked: its dvc.lock"):
        table_of(no_lock)


# Costs


def test_costs_stand_beside_quality() -> None:
    slower = {"train": {"seconds": 1200.0, "peak_memory_gb": 7.0}, "score_tuned": {"seconds": 30}}
    table = table_of(run(), replace(run(seed=2), timing=slower))
    base, tuned = (row.cells(table.headline)[4:] for row in table.rows)
    assert base == ["–", "2.0", "–", "–"]
    assert tuned == ["15.0", "1.0", "7.0", "1,000"]


@pytest.mark.parametrize(
    "timing", [{}, {"train": 3}, {"train": {"seconds": "x"}, "score_tuned": []}]
)
def test_what_is_not_recorded_is_a_dash(timing: Any) -> None:
    table = table_of(replace(run(), timing=timing, training={"num_target_tokens": 10**400}))
    assert table.rows[1].cells(table.headline)[4:] == ["–"] * 4


def test_the_timing_of_another_model_is_not_taken_for_ones_own() -> None:
    """DVC does not hash it: it stays as it was where a model comes from the cache."""
    timing = {**TIMING, "train": {**TIMING["train"], "model_sha256": "a" * 64}}
    table = table_of(replace(run(), timing=timing), replace(run(0.02), timing=timing), run(0.04))
    assert [row.cells(table.headline)[4] for row in table.rows[1:]] == ["–", "–", "10.0"]
    scored_twice = replace(run(params={"score.batch_size": "8"}), timing=timing)
    same = table_of(replace(run(), timing=timing), scored_twice)
    assert [row.cells(same.headline)[4] for row in same.rows[1:]] == ["10.0", "10.0"]


# How it is shown


def long_table(num_models: int) -> RunTable:
    params = {"data.path": "data/raw/some folder with words of its name", "encoding.loss_on": "all"}
    return table_of(
        *(
            run(0.002 * n, seed=seed, name=f"my-team/sweep-{n}-{seed} (abc1234)", params=params)
            for n in range(num_models)
            for seed in (1, 2, 3)
        ),
        run(0.5, params={"data.path": "data/raw/other-data.jsonl"}),
        left_out=(" ".join(["x" * 90, *(f"reason-{n}-is-not-here" for n in range(20))]),),
    )


@pytest.mark.parametrize("num_models", [1, 10, 30])
def test_the_text_fits_a_terminal_and_breaks_no_word(num_models: int) -> None:
    table = long_table(num_models)
    text = as_text(table)
    assert [line for line in text.splitlines() if len(line) > 80] == [f"- {'x' * 90}"]
    said = [*names(table), *table.left_out, *table.notes]
    said += [revision for row in table.rows for revision in row.configuration.revisions]
    words = {word for each in said for word in each.split()}
    assert words - {shown for word in text.split() for shown in (word, word.rstrip(";"))} == set()
    wide = table_of(
        replace(
            run(),
            timing={"train": {"seconds": 6e5, "peak_memory_gb": 1234.5}},
            training={"num_target_tokens": 123_456_789_012_345},
        )
    )
    assert max(map(len, as_text(wide).splitlines())) <= 80


def test_every_pair_has_its_mark_in_the_matrix_and_a_line() -> None:
    table = long_table(30)
    assert [row.letter for row in table.rows][25:] == ["Z", "AA", "AB", "AC", "AD", "AE", "AF"]
    matrix = as_text(table).split("\n\n")[4]
    lines = [line.split() for line in matrix.splitlines()]
    found: dict[str, str] = {}
    columns: list[str] = []
    for first, *cells in lines:
        if cells and set(cells) <= set("<>.?–"):
            found |= {f"{first} − {c}": mark for c, mark in zip(columns, cells, strict=False)}
        else:
            columns = [first, *cells]
    marks = {"no difference shown": "."}
    assert found == {
        one.name: marks.get(one.verdict, "<" if one.change.value < 0 else ">")
        for one in table.pairs
        if one.change is not None
    }
    shown = as_text(table).split("\n\n")[5].splitlines()
    assert [line.split("  ")[0].rstrip() for line in shown] == [one.name for one in table.pairs]


def test_the_csv_has_the_numbers_of_the_text(tmp_path: Path) -> None:
    table = table_of(
        *(run(s, seed=n, params={"=evil": f"={s}"}) for s in (0, 0.05) for n in (1, 2))
    )
    write_csv(tmp_path / "table.csv", *as_records(table))
    text = (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert not [cell for line in csv.reader(io.StringIO(text)) for cell in line if cell[:1] == "="]
    rows = list(csv.DictReader(io.StringIO(text)))
    shown = table.headline.shown
    lines = [re.split(r"\s{2,}", line) for line in as_text(table).splitlines()]
    by_name = {line[0]: line[1:] for line in lines if len(line) > 3}
    for record in rows:
        name = " − ".join(filter(None, (record["row"], record["against"])))
        low, high = float(record["low"]), float(record["high"])
        if record["against"]:
            change = shown(float(record["value"]), signed=True)
            expected = [change, table.headline.shown_interval(low, high), record["verdict"]]
        else:
            minutes = [
                record[name] for name in ("train_minutes", "score_minutes", "peak_memory_gb")
            ]
            tokens = record["num_target_tokens"]
            expected = [
                shown(float(record["value"])),
                f"[{shown(low)}, {shown(high)}]",
                "–" if record["configuration"] == "base model" else record["num_runs"],
                record["num_dialogues"],
                *(f"{float(one):.1f}" if one else "–" for one in minutes),
                f"{int(tokens):,}" if tokens else "–",
            ]
        assert by_name[name] == expected
    assert len(rows) == len(table.rows) + len(table.pairs)
    assert [row["train.learning_rate"] for row in rows] == ["", "1.000", "1.050", "", "", ""]


def test_the_page_holds_all_of_it_and_is_escaped_and_self_contained() -> None:
    hostile = "</th><script>alert(1)</script>\x1b[31m"
    table = table_of(
        run(name=hostile, params={"data.path": hostile}),
        run(0.01, name="b"),
        left_out=(f"{hostile}: left out",),
    )
    page = table_as_html(table)
    tags = Tags()
    tags.feed(page)
    assert not tags.found & {"script", "img", "b", "link", "iframe"}
    assert tags.loads == []
    assert "url(" not in page and "@import" not in page and "\x1b" not in page
    for row in table.rows:
        assert all(f"<td>{cell}</td>" in page for cell in row.cells(table.headline))
    for one in table.pairs:
        assert all(f">{cell}</span>" in page for cell in one.cells(table.headline))
    assert "&lt;/th&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m: left out" in page
    assert "\x1b" not in as_text(table)


# A real repository

PIPELINE = """
stages:
  train:
    cmd: exec python -m stages.train --metrics results/train.json --timing results/timing.json
    params: [seed, train]
    metrics: [results/train.json: {cache: false}]
  eval:
    cmd: >-
      exec python -m stages.eval --metrics results/eval.json --timing results/timing.json
      --dialogues results/dialogues.csv --samples results/samples.md
    params: [seed, train.epochs]
    metrics: [results/eval.json: {cache: false}]
    plots: [results/dialogues.csv: {cache: false}]
    outs: [results/samples.md]
"""


def put(path: Path, shift: float, seed: int, *, minutes: float = 2.0, **of_evaluation: Any) -> None:
    """Write what a run leaves: its learning rate is 1e-4, and 3e-4 where there is a shift."""
    one = run(shift, seed=seed, **of_evaluation)
    rate = "3.0e-4" if shift else "1e-4"
    write_text(
        path / "params.yaml",
        f"seed: {seed}\ntrain: {{learning_rate: {rate}, epochs: 3}}\n"
        f"runtime: {{checkpoint_minutes: {minutes}}}\n",
    )
    write_json(path / "results/eval.json", one.metrics)
    write_csv(path / "results/dialogues.csv", *as_rows(one.dialogue_ids, one.table))
    write_text(path / "results/samples.md", SAMPLES.format(reply=f"{shift} {seed}"))
    write_json(path / "results/train.json", one.training)
    write_json(path / "results/timing.json", one.timing)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit with experiments of two learning rates, and some that do not go with them."""
    path = tmp_path_factory.mktemp("table")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }

    def do(*command: str) -> None:
        result = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    def save(name: str) -> None:
        do("dvc", "exp", "save", "--force", "--name", name)

    do("git", "init", "--quiet", "--initial-branch", "main")
    do("git", "config", "user.email", "test@localhost")
    do("git", "config", "user.name", "test")
    do("dvc", "init", "--quiet")
    write_text(path / "dvc.yaml", PIPELINE)
    put(path, 0.0, 1)
    do("dvc", "commit", "--quiet", "--force")
    do("git", "add", ".")
    do("git", "commit", "--quiet", "--message", "first")
    put(path, 0.0, 1, minutes=9.0)
    save("again")
    for shift, seeds in ((0.0, (2, 10)), (0.03, (1, 2, 10))):
        for seed in seeds:
            put(path, shift, seed)
            save(f"{'high' if shift else 'low'}-{seed}")
    put(path, 0.0, 3, text="b" * 64)
    save("text")
    put(path, 0.0, 3)
    write_text(path / "results/eval.json", "{")
    save("broken")
    put(path, 0.03, 77)  # params.yaml of the working tree, and results of no run
    write_text(path / "params.yaml", "seed: 5\ntrain: {learning_rate: 0.9}\n")
    return path


@pytest.fixture
def command(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command in the project; what it printed, without the commits."""
    run = command_in(project, monkeypatch, capsys)
    return lambda *arguments: re.sub(r" \([0-9a-f]{7}\)", "", run(*arguments))


def test_a_commit_stands_with_all_its_experiments(command: Command) -> None:
    text = command("--table")
    words = " ".join(text.split())
    assert "6 runs of 2 configurations on the same 40 dialogues" in words
    for row in (
        "B train.learning_rate=0.0001 seed 1: HEAD, again; seed 2: low-2; seed 10: low-10",
        "C train.learning_rate=0.0003 seed 1: high-1; seed 2: high-2; seed 10: high-10",
    ):
        assert row in words
    left_out = words[words.index("Not in the table") :]
    assert "- results/eval.json of broken is no evaluation" in left_out
    assert "- text: not what the table was measured on: the text" in left_out
    assert re.search(r"^C − B +\+\S+ .* worse$", text, re.MULTILINE)
    assert re.search(r"^B .* 3 +40 +10.0 +1.5 +5.0 +1,000$", text, re.MULTILINE)
    assert command("--table", "main") == text.replace("HEAD", "main")


def test_revisions_can_be_named(command: Command) -> None:
    text = command("--table", "low-2,low-10", "high-1")
    assert "rate=0.0001 seed 2: low-2; seed 10: low-10 C" in " ".join(text.split())
    assert "HEAD" not in text and "Not in the table" not in text
    assert "seed 1: high-1\n" in command("--table", "high-1")
    with pytest.raises(UserError, match="'nowhere' is no commit, branch, tag or experiment"):
        command("--table", "main", "nowhere")
    with pytest.raises(UserError, match="no run to put into a table.\nresults/eval.json of broken"):
        command("--table", "broken")


def test_parameters_are_those_that_the_stages_ran_with(command: Command) -> None:
    """The lock's, whatever params.yaml says by now; ``runtime`` is no stage's."""
    working_tree = command("--table", "workspace", "high-1")
    assert "0.9" not in working_tree and "checkpoint_minutes" not in working_tree
    assert "seed 5" not in working_tree


def test_numbers_are_compared_as_numbers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    lock = project / "dvc.lock"
    before = lock.read_text(encoding="utf-8")
    (expected,) = read_evaluations(["workspace"])
    try:
        for spelling in ("1e-4", "1.0E-4", ".0001", "0.00010"):
            lock.write_text(re.sub("learning_rate: .*", f"learning_rate: {spelling}", before))
            (found,) = read_evaluations(["workspace"])
            assert found.params == {**expected.params, "train.learning_rate": "0.0001"}
        lock.write_text(before.replace("epochs: 3", "epochs: '3'\n          on: [a, {b: 1}]\n", 1))
        assert read_evaluations(["workspace"])[0].params["train.on"] == "[a, b: 1]"
        released = "  release: {cmd: x, params: {params.yaml: {train: {epochs: 9}}}}\n"
        lock.write_text(before + released)
        assert read_evaluations(["workspace"])[0].params == expected.params  # it comes later
        lock.write_text(bomb("[%s]") + before.replace("epochs: 3", "epochs: *a19", 1))
        assert len(read_evaluations(["workspace"])[0].params) < 100
    finally:
        lock.write_text(before)


def test_the_files_hold_what_was_printed(command: Command, tmp_path: Path) -> None:
    files = tmp_path / "table.csv", tmp_path / "table.html"
    text = command("--table", "--csv", str(files[0]), "--html", str(files[1]))
    assert text == command("--table")
    rows = list(csv.DictReader(io.StringIO(files[0].read_text(encoding="utf-8"))))
    assert [row["row"] for row in rows] == ["A", "B", "C", "B", "C", "C"]
    page = files[1].read_text(encoding="utf-8")
    assert "train.learning_rate=0.0003" in page and "results/eval.json of broken" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: A"),
        (("main", "--csv", "x.csv"), "--csv is for --table"),
        (("main", "--table", "high-1"), "--table takes the place of A and B"),
    ],
)
def test_a_wrong_command_line_is_one_message(
    command: Command, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        command(*arguments)
    assert exit_code.value.code == 2
    assert message in capsys.readouterr().err
