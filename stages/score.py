"""Stage 5: one model on the validation dialogues; its sums, curves and what it writes out."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers.utils import logging as transformers_logging

from tuning.evaluation_set.plan import Plan, has_roles, make_plan, read_example
from tuning.language_model.device import keep_freed_memory, share_threads
from tuning.processes.group import Processes
from tuning.processes.torchrun import run_in_processes
from tuning.results.measured import write_measured
from tuning.run.inputs import Inputs
from tuning.run.params import load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import record_timing
from tuning.scoring.also import raise_if_changed
from tuning.scoring.also_sets import AlsoSet, read_also
from tuning.scoring.measures import load_model, measure
from tuning.tokens.templates import is_encodable, template_of


def main(processes: Processes) -> None:
    """Measure, check that nothing changed meanwhile, write."""
    parser = argparse.ArgumentParser(prog="python -m stages.score", description=__doc__)
    parser.add_argument("--name", choices=("base", "tuned"), required=True, help="which model")
    parser.add_argument("--model", type=Path, required=True, help="its folder")
    parser.add_argument("--validation", type=Path, required=True, help="dialogues, JSONL")
    parser.add_argument("--example", type=Path, required=True, help="a training dialogue, JSONL")
    parser.add_argument("--also", type=Path, required=True, help="folder of further sets, JSONL")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--scores", type=Path, required=True, help="all that was measured, JSON")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    started = time.monotonic()

    params = load_params()
    inputs = Inputs(
        [args.validation, args.example, args.also, args.model, args.lock],
        partial(declared_params, "score"),
    )
    processes.require_same(inputs.fingerprint)
    share_threads(params.num_threads, processes.num_on_this_host)
    loss_on = params.encoding.loss_on
    template = template_of(
        args.model,
        choice=params.encoding.template,
        settings=params.encoding.template_settings,
        has_roles=has_roles(args.validation),
    )
    plan = make_plan(
        args.validation,
        params.score,
        loss_on,
        partial(is_encodable, template, loss_on=loss_on),
    )
    also = read_also(args.also, params.score, loss_on)
    raise_if_changed(template, also, loss_on)
    if processes.is_main:
        announce(args.name, plan, also)
    measured = measure(
        args.name,
        args.model,
        template,
        plan,
        params.score,
        # The report shows how people's turns surprise that model.
        shown=list(plan.shown) if args.name == "tuned" else [],
        # The tuned model has seen it; the base model shows what reading it does without training.
        example=read_example(args.example, params.score, loss_on) if args.name == "base" else None,
        also=also,
        seed=params.seed,
        load=partial(load_model, processes=processes, in_parts=params.runtime.shard_model),
    )
    processes.part()
    if not processes.is_main:
        return
    inputs.check_unchanged()
    write_measured(args.scores, measured)
    record_timing(
        args.timing,
        f"score_{args.name}",
        {
            "seconds": time.monotonic() - started,
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        },
    )


def announce(name: str, plan: Plan, also: Sequence[AlsoSet]) -> None:
    """Say what is scored, and what is not."""
    for one in also:
        if one.num_left_out:
            print(
                f"score: {one.name}: {len(one.all_dialogues):,} are scored, {one.num_left_out:,} "
                "left out, beyond score.max_dialogues or without a response"
            )
    if plan.not_encodable:
        print(f"score: left out as not encodable: {len(plan.not_encodable):,} dialogues")
    print(f"score: the {name} model on {len(plan.dialogues):,} dialogues", flush=True)


if __name__ == "__main__":
    run_stage("score", partial(run_in_processes, "stages.score", main))
