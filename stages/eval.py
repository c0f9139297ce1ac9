"""Stage 6: the scores of base and fine-tuned model in; numbers, curves, samples out."""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tuning.dialogue import read_dialogues
from tuning.evaluation_set.blocks import as_lines, blocks_sha256
from tuning.evaluation_set.places import Response, people_in_places
from tuning.evaluation_set.plan import Plan, make_plan
from tuning.evaluation_set.text import text_sha256
from tuning.report.charts import Chart
from tuning.report.headlines import METRIC_VERSION, with_intervals
from tuning.report.ngram_baselines import baseline_scores
from tuning.report.quality import words_of
from tuning.report.report_page import SideBySide, report_page
from tuning.report.writing_table import as_metrics, measure_writing, shares_by_length
from tuning.results.bootstrap import Estimate, draw_counts
from tuning.results.dialogue_table import as_rows
from tuning.results.measured import Measured, read_measured
from tuning.results.response_scores import bits_per_byte
from tuning.results.samples import SAMPLE_COLUMNS, samples_as_markdown, samples_as_rows
from tuning.run.files import write_csv, write_json, write_text
from tuning.run.inputs import Inputs
from tuning.run.params import load_params
from tuning.run.process import run_stage
from tuning.timing import read_timing, record_timing
from tuning.tracking import start_run

SHOWN_CHAT_TURNS = 8
"""Turns of each self-chat that people get to read."""


def main() -> None:
    """Compare the two, say how sure that is, write what people look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validation", type=Path, required=True, help="dialogues, JSONL")
    parser.add_argument("--training", type=Path, required=True, help="for n-gram models, JSONL")
    parser.add_argument("--base", type=Path, required=True, help="the base model's scores, JSON")
    parser.add_argument("--tuned", type=Path, required=True, help="the fine-tuned model's, JSON")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics, JSON")
    parser.add_argument("--dialogues", type=Path, required=True, help="sums per dialogue, CSV")
    parser.add_argument("--blocks", type=Path, required=True, help="coherence's pairs, JSONL")
    parser.add_argument("--by-turn", type=Path, required=True, help="bits per byte by depth, CSV")
    parser.add_argument("--by-history", type=Path, required=True, help="history gain, CSV")
    parser.add_argument("--by-distance", type=Path, required=True, help="recall, CSV")
    parser.add_argument("--train-log", type=Path, required=True, help="training's steps, CSV")
    parser.add_argument("--generation", type=Path, required=True, help="quality of writing, JSON")
    parser.add_argument("--by-length", type=Path, required=True, help="lengths written, CSV")
    parser.add_argument("--samples", type=Path, required=True, help="continued dialogues, Markdown")
    parser.add_argument("--report", type=Path, required=True, help="all of it to look at, HTML")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    started = time.monotonic()

    params = load_params()
    paths = [args.validation, args.training, args.base, args.tuned, args.lock]
    inputs = Inputs([*paths, args.train_log], "eval")
    relevance = load_relevance(params.num_threads) if params.eval.relevance else None
    plan = make_plan(args.validation, params.score)
    dialogues, places = plan.dialogues, plan.places
    measured = {"base": read_measured(args.base), "tuned": read_measured(args.tuned)}
    base, tuned = measured["base"], measured["tuned"]
    trained = run_that_trained(tuned.weights_sha256, args.timing)
    with start_run(
        job_type="eval",
        config=params.model_dump(),
        fingerprint=inputs.fingerprint,
        run_id=trained.get("wandb_run_id"),
    ) as run:
        columns = base.columns | tuned.columns
        counts = draw_counts(
            np.random.default_rng(params.seed),
            len(dialogues),
            num_resamples=params.eval.bootstrap_resamples,
        )
        headlines = with_intervals(columns, counts)
        curves = {
            axis: {name: one.curves[axis].estimates(counts) for name, one in measured.items()}
            for axis in base.curves
        }
        baselines = baseline_scores(read_dialogues(args.training), dialogues)
        metrics = {
            "base": base.figures | headlines["base"],
            "tuned": tuned.figures | headlines["tuned"],
            "change": headlines["change"],
            "baselines": {
                name: {"bits_per_byte": bits_per_byte(scores.content_nll, scores.num_bytes)}
                for name, scores in baselines.items()
            },
            "set": {
                "num_dialogues": len(dialogues),
                "num_dialogues_left_out": plan.num_left_out,
                "num_responses": int(columns["num_responses"].sum()),
                "num_bytes": int(columns["num_bytes"].sum()),
                "text_sha256": text_sha256(dialogues),
                "blocks_sha256": blocks_sha256(plan.blocks),
                "num_blocks": len(plan.blocks),
                "metric_version": METRIC_VERSION,
                "profile": params.score.profile,
            },
        }
        people = people_in_places(dialogues, places)
        writing = measure_writing(
            {name: one.written for name, one in measured.items()},
            {name: one.chats for name, one in measured.items()},
            people,
            utterances(args.training),
            relevance,
            num_resamples=params.eval.bootstrap_resamples,
            seed=params.seed,
        )
        generation = as_metrics(writing, len(places))
        by_length = shares_by_length(
            {
                **{
                    name: [len(words_of(response.text)) for response in one.written.sampled]
                    for name, one in measured.items()
                },
                "people": [len(words_of(one.text)) for one in people],
            }
        )
        samples = [one.beginning(SHOWN_CHAT_TURNS) for one in tuned.chats]

        inputs.check_unchanged()
        write_csv(args.dialogues, *as_rows((d.dialogue_id for d in dialogues), columns))
        write_text(args.blocks, as_lines(plan.blocks))
        write_csv(args.by_turn, *curve_rows("turn", curves["turn"]))
        write_csv(args.by_history, *curve_rows("num_turns", curves["num_turns"]))
        write_csv(args.by_distance, *curve_rows("distance", curves["distance"]))
        write_csv(args.by_length, ("words", *measured, "people"), by_length)
        write_json(args.generation, generation)
        write_json(args.metrics, metrics)
        write_text(args.samples, samples_as_markdown(samples))
        write_text(
            args.report,
            report_page(
                metrics,
                writing,
                charts(args.train_log, curves, by_length),
                side_by_side(plan, measured),
            ),
        )
        record_timing(args.timing, "eval", {"seconds": time.monotonic() - started})
        run.summarise({"eval": metrics, "generation": generation})
        run.log_samples(
            "eval/samples",
            SAMPLE_COLUMNS,
            samples_as_rows(samples),
            step=trained.get("last_step", 0) + 1,
        )
    before, after = (headlines[name]["bits_per_byte"] for name in ("base", "tuned"))
    print(f"eval: bits per byte {before:.4f} -> {after:.4f}; all of it to look at: {args.report}")


def utterances(path: Path) -> Iterator[str]:
    """All texts of a file of dialogues."""
    for dialogue in read_dialogues(path):
        for turn in dialogue.turns:
            yield turn.utterance


def curve_rows(
    axis: str, curves: Mapping[str, Mapping[int, Estimate]]
) -> tuple[list[str], list[tuple[float, ...]]]:
    """Header and rows: a place of the axis, then value, low and high of each model."""
    header = [axis, *(f"{name}{end}" for name in curves for end in ("", "_low", "_high"))]
    rows = []
    for place in next(iter(curves.values())):
        here = (curve[place] for curve in curves.values())
        rows.append((place, *(end for one in here for end in (one.value, one.low, one.high))))
    return header, rows


def charts(
    train_log: Path,
    curves: Mapping[str, Mapping[str, Mapping[int, Estimate]]],
    by_length: Sequence[tuple[float, ...]],
) -> list[Chart]:
    """The report's pictures: the curves that DVC plots, both models in one."""
    with train_log.open(encoding="utf-8", newline="") as file:
        loss = [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    found = [Chart("Training loss", "optimizer step", "nats per target token", {"loss": loss})]
    for axis, title, x_label, y_label in (
        ("turn", "Bits per byte by turn", "turn of the dialogue", "bits per byte"),
        ("num_turns", "History gain", "last turns that the model sees", "bits per byte saved"),
        ("distance", "Recall of a planted fact (chance 0.1)", "turns between", "share recalled"),
    ):
        points, bands = {}, {}
        for name, curve in curves[axis].items():
            points[name] = [(place, estimate.value) for place, estimate in curve.items()]
            bands[name] = [(place, one.low, one.high) for place, one in curve.items()]
        found.append(Chart(title, x_label, y_label, points, bands))
    lengths = {
        name: [(row[0], row[column]) for row in by_length]
        for column, name in enumerate((*curves["turn"], "people"), start=1)
    }
    found.append(Chart("Lengths of responses", "at most so many words", "share", lengths))
    return found


def side_by_side(plan: Plan, measured: Mapping[str, Measured]) -> list[SideBySide]:
    """What both models and a person said; the person's as the fine-tuned model reads it."""
    return [
        SideBySide(
            dialogue_id=plan.dialogues[place.dialogue].dialogue_id,
            context=plan.dialogues[place.dialogue].turns[: place.turn],
            speaker=plan.dialogues[place.dialogue].turns[place.turn].speaker,
            responses={
                **{name: one.written.shown[number] for name, one in measured.items()},
                "people": measured["tuned"].people[number],
            },
        )
        for number, place in enumerate(plan.shown)
    ]


def load_relevance(num_threads: int) -> Callable[[Sequence[Response]], float | None]:
    """The one measure of this stage that needs a model: imported and loaded where it is asked for.

    Raises:
        UserError: the encoder's package is not installed.
    """
    from tuning.report.relevance import SentenceEncoder, encoder_folder, relevance

    return partial(relevance, SentenceEncoder(encoder_folder(), num_threads=num_threads))


def run_that_trained(model_sha256: str, timing: Path) -> dict[str, Any]:
    """Training's section of the timing file, if it is about this very model; else nothing."""
    trained = read_timing(timing).get("train", {})
    return trained if trained.get("model_sha256") == model_sha256 else {}


if __name__ == "__main__":
    run_stage("eval", main)
