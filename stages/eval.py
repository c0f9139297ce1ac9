"""Stage 6: the scores of base and fine-tuned model in; numbers, curves, samples out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tuning.evaluation_set.blocks import as_lines
from tuning.evaluation_set.places import Response
from tuning.evaluation_set.plan import Plan, make_plan
from tuning.progress import waiting
from tuning.report.evaluation import Evaluation, evaluate
from tuning.report.report_page import report_page
from tuning.report.shown import charts, curve_rows, read_steps, side_by_side
from tuning.results.dialogue_table import as_rows
from tuning.results.measured import read_measured
from tuning.results.samples import SAMPLE_COLUMNS, samples_as_markdown, samples_as_rows
from tuning.run.files import write_csv, write_json, write_text
from tuning.run.inputs import Inputs
from tuning.run.params import load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import read_timing, record_timing
from tuning.tracking import start_run

SHOWN_CHAT_TURNS = 8
"""Turns of each self-chat that people get to read."""


def main() -> None:
    """Compare the two, say how sure that is, write what people look at."""
    args = parse_arguments()
    started = time.monotonic()

    params = load_params()
    paths = [args.validation, args.training, args.base, args.tuned, args.lock, args.train_log]
    inputs = Inputs(paths, partial(declared_params, "eval"))
    relevance = load_relevance(params.num_threads) if params.eval.relevance else None
    measured = {"base": read_measured(args.base), "tuned": read_measured(args.tuned)}
    left_out = measured["base"].not_encodable
    assert measured["tuned"].not_encodable == left_out, "the models were measured on other texts"
    plan = make_plan(
        args.validation,
        params.score,
        params.encoding.loss_on,
        lambda dialogue: dialogue.dialogue_id not in left_out,
    )
    trained = run_that_trained(measured["tuned"].weights_sha256, args.timing)
    with start_run(
        job_type="eval",
        config=params.model_dump(),
        fingerprint=inputs.fingerprint,
        run_id=trained.get("wandb_run_id"),
    ) as run:
        with waiting("eval"):
            evaluation = evaluate(
                plan,
                measured,
                args.training,
                relevance,
                settings=params.score,
                primary=params.eval.primary,
                num_resamples=params.eval.bootstrap_resamples,
                seed=params.seed,
            )
        samples = [one.beginning(SHOWN_CHAT_TURNS) for one in measured["tuned"].chats]
        inputs.check_unchanged()
        write_numbers(args, plan, evaluation)
        write_text(args.samples, samples_as_markdown(samples))
        page = report_page(
            evaluation.metrics,
            evaluation.generation,
            evaluation.writing,
            charts(args.train_log, evaluation),
            side_by_side(plan, measured),
        )
        write_text(args.report, page)
        record_timing(args.timing, "eval", {"seconds": time.monotonic() - started})
        # Offline this is a second folder of training's run, and its summary replaces the first.
        last_step = read_steps(args.train_log)[-1]
        run.summarise(
            {"train": last_step, "eval": evaluation.metrics, "generation": evaluation.generation}
        )
        run.log_samples(
            "eval/samples",
            SAMPLE_COLUMNS,
            samples_as_rows(samples),
            step=trained.get("last_step", 0) + 1,
        )
    before, after = (evaluation.metrics[name]["bits_per_byte"] for name in ("base", "tuned"))
    print(f"eval: bits per byte {before:.4f} -> {after:.4f}; all of it to look at: {args.report}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.eval", description=__doc__)
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
    return parser.parse_args()


def write_numbers(args: argparse.Namespace, plan: Plan, evaluation: Evaluation) -> None:
    """Write the metrics, and the tables and blocks that they follow from."""
    ids = (dialogue.dialogue_id for dialogue in plan.dialogues)
    write_csv(args.dialogues, *as_rows(ids, evaluation.columns))
    write_text(args.blocks, as_lines(plan.blocks))
    write_csv(args.by_turn, *curve_rows("turn", evaluation.curves["turn"]))
    write_csv(args.by_history, *curve_rows("num_turns", evaluation.curves["num_turns"]))
    write_csv(args.by_distance, *curve_rows("distance", evaluation.curves["distance"]))
    write_csv(args.by_length, ("words", *evaluation.length_columns), evaluation.by_length)
    write_json(args.generation, evaluation.generation)
    write_json(args.metrics, evaluation.metrics)


def load_relevance(num_threads: int | None) -> Callable[[Sequence[Response]], float | None]:
    """Load the one measure of this stage that needs a model, imported only where it is asked for.

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
