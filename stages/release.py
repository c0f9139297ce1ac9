"""Stage 7: the trained weights in; a folder to use and to share out, with its card and receipt."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from functools import partial
from pathlib import Path

from transformers.utils import logging as transformers_logging

from tuning.dialogue import read_dialogues
from tuning.evaluation_set.plan import has_roles
from tuning.language_model.device import keep_freed_memory, set_threads, share_threads
from tuning.processes.group import Processes
from tuning.processes.torchrun import run_in_processes
from tuning.progress import growing, num_bytes_in, waiting
from tuning.release.example import choose_example
from tuning.release.final_test import score_test_side
from tuning.release.model_card import Facts, model_card
from tuning.release.origins import source_of_data, source_of_model
from tuning.release.parity import check_parity, parity, template_of_training
from tuning.release.receipt import RECEIPT, make_receipt
from tuning.results.dialogue_table import as_rows
from tuning.results.measured import read_measured
from tuning.run.files import new_folder, write_csv, write_json, write_text
from tuning.run.inputs import Inputs
from tuning.run.params import load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import record_timing
from tuning.template_record import read_record
from tuning.tokens.templates import template_of

CARD = "README.md"


def main(processes: Processes) -> None:
    """Copy the model, ask engines what they are fed, write the card, then the receipt over all."""
    args = parse_arguments()
    started = time.monotonic()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    params = declared_params("release")
    metrics = [args.ledger, args.tokens, args.training, args.scores, args.generation]
    data = Path(params["data"]["path"])
    paths = [data, args.prepared, args.base, args.lock, args.tuned, *metrics]
    inputs = Inputs([*paths, args.trained], partial(declared_params, "release"))
    ledger, tokens, training, scores, generation = (
        json.loads(path.read_text(encoding="utf-8")) for path in metrics
    )
    processes.require_same(inputs.fingerprint)
    share_threads(params["num_threads"], processes.num_on_this_host)
    record = read_record(args.trained)
    assert record is not None, "train writes it"
    template = template_of_training(args.base, args.trained, params["encoding"]["template"])
    base_template = template_of(
        args.base,
        choice=params["encoding"]["template"],
        settings=params["encoding"]["template_settings"],
        has_roles=has_roles(args.validation),
    )
    test = score_test_side(
        args.test,
        {"base": (args.base, base_template), "tuned": (args.trained, template)},
        load_params(),
        processes,
    )
    processes.part()
    if not processes.is_main:
        return
    set_threads(params["num_threads"])
    example = choose_example(
        read_dialogues(args.validation),
        read_measured(args.tuned).written.greedy,
        template,
        loss_on=params["encoding"]["loss_on"],
        region=params["data"]["phone_region"],
    )
    facts = Facts(
        base=source_of_model(params["model"]["name"], params["model"]["revision"]),
        corpus=source_of_data(data, params["data"]["hub"]),
        example=example,
        usage=record.usage,
        params=params,
        scores=scores,
        test=test.metrics,
        generation=generation,
        ledger=ledger,
        tokens=tokens,
        training=training,
    )
    run = {name: training[name] for name in ("device", "precision", "compiled")}
    with new_folder(args.model) as folder:
        with growing("release: copying", folder, num_bytes_in(args.trained)):
            for file in sorted(args.trained.iterdir()):
                shutil.copyfile(file, folder / file.name)
        with waiting("release: what engines feed the model"):
            prompts = parity(
                folder,
                template,
                args.validation,
                loss_on=params["encoding"]["loss_on"],
            )
        check_parity(prompts, args.trained)
        write_text(folder / CARD, model_card(facts, str(prompts)))
        with waiting("release: the receipt"):
            receipt = make_receipt(folder, paths, params, run, prompts.record())
        write_json(folder / RECEIPT, receipt)
        inputs.check_unchanged()
    ids = (dialogue.dialogue_id for dialogue in test.dialogues)
    write_csv(args.test_dialogues, *as_rows(ids, test.columns))
    write_json(args.test_metrics, test.metrics)
    record_timing(args.timing, "release", {"seconds": time.monotonic() - started})
    print("\n".join(f"release: {line}" for line in (str(prompts), *prompts.lacks)))
    print(f"release: {args.model} is complete; what it is and what it can do: {args.model / CARD}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.release", description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="prep's folder")
    parser.add_argument("--validation", type=Path, required=True, help="dialogues, JSONL")
    parser.add_argument("--test", type=Path, required=True, help="the test set's, read here alone")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--trained", type=Path, required=True, help="training's folder")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--ledger", type=Path, required=True, help="prep's metrics, JSON")
    parser.add_argument("--tokens", type=Path, required=True, help="encode's metrics, JSON")
    parser.add_argument("--training", type=Path, required=True, help="training's metrics, JSON")
    parser.add_argument("--scores", type=Path, required=True, help="the evaluation, JSON")
    parser.add_argument("--tuned", type=Path, required=True, help="the tuned model's scores, JSON")
    parser.add_argument("--generation", type=Path, required=True, help="quality of writing, JSON")
    parser.add_argument("--model", type=Path, required=True, help="folder to write")
    parser.add_argument("--test-metrics", type=Path, required=True, help="of the test set, JSON")
    parser.add_argument("--test-dialogues", type=Path, required=True, help="its sums, CSV")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage("release", partial(run_in_processes, "stages.release", main))
