"""Stage 5: base and fine-tuned model on the same validation text; numbers, curves, samples out."""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from stages.corpus.dialogue import Dialogue, read_dialogues
from stages.device import keep_freed_memory, set_threads
from stages.encoding.speakers import PlainText, SpeakerTokens, Template, load_tokenizer
from stages.errors import UserError
from stages.evaluation.coherence import context_identification, make_blocks
from stages.evaluation.context import history_gain
from stages.evaluation.evaluation_set import cut_evaluation_set, text_sha256
from stages.evaluation.generation import (
    SAMPLE_COLUMNS,
    Sample,
    continue_dialogues,
    samples_as_markdown,
    samples_as_rows,
)
from stages.evaluation.per_dialogue import as_table, change_in_bits_per_byte
from stages.evaluation.perplexity import ResponseScores, by_turn, score_responses, summarise
from stages.files import weights_sha256, write_csv, write_json, write_text
from stages.inputs import Inputs
from stages.params import EvalParams, load_params
from stages.process import run_stage
from stages.timing import read_timing, record_timing
from stages.training.tracking import start_run


def main() -> None:
    """Score both models, compare them, write what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validation", type=Path, required=True, help="dialogues, JSONL")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--model", type=Path, required=True, help="the fine-tuned model's folder")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics, JSON")
    parser.add_argument("--dialogues", type=Path, required=True, help="sums per dialogue, CSV")
    parser.add_argument("--by-turn", type=Path, required=True, help="bits per byte by depth, CSV")
    parser.add_argument("--samples", type=Path, required=True, help="continued dialogues, Markdown")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    started = time.monotonic()

    params = load_params()
    inputs = Inputs([args.validation, args.base, args.model, args.lock], declared_params)
    set_threads(params.train.num_threads)
    dialogues, num_left_out = cut_evaluation_set(
        read_dialogues(args.validation),
        max_dialogues=params.eval.max_dialogues,
        max_turns=params.eval.max_turns,
        max_bytes=params.eval.max_bytes,
    )
    if not dialogues:
        raise UserError(
            f"{args.validation}: no dialogue has a response within eval.max_turns and "
            "eval.max_bytes; raise them."
        )

    trained = run_that_trained(args.model, args.timing)
    with start_run(
        job_type="eval", config=params.model_dump(), run_id=trained.get("wandb_run_id")
    ) as run:
        results: dict[str, dict[str, float]] = {}
        scores: dict[str, ResponseScores] = {}
        samples: list[Sample] = []
        for name, folder in (("base", args.base), ("tuned", args.model)):
            print(f"eval: scoring the {name} model on {len(dialogues):,} dialogues", flush=True)
            tokenizer = load_tokenizer(folder)
            model = load_model(folder)
            template = PlainText(tokenizer) if name == "base" else SpeakerTokens(tokenizer)
            scores[name], results[name] = measure(model, template, dialogues, params.eval)
            if isinstance(template, SpeakerTokens):
                samples = continue_dialogues(
                    model,
                    template,
                    dialogues,
                    num_samples=params.eval.num_samples,
                    prompt_turns=params.eval.sample_prompt_turns,
                    reply_turns=params.eval.sample_reply_turns,
                    max_new_tokens=params.eval.sample_max_new_tokens,
                    temperature=params.eval.sample_temperature,
                    top_p=params.eval.sample_top_p,
                    seed=params.seed,
                )
        metrics = results | {
            "change": change_in_bits_per_byte(
                scores["base"],
                scores["tuned"],
                len(dialogues),
                num_resamples=params.eval.bootstrap_resamples,
                seed=params.seed,
            ),
            "set": {
                "num_dialogues": len(dialogues),
                "num_dialogues_left_out": num_left_out,
                "num_responses": len(scores["base"].turn),
                "num_bytes": int(scores["base"].num_bytes.sum()),
                "text_sha256": text_sha256(dialogues),
            },
        }
        inputs.check_unchanged()
        write_csv(args.dialogues, *as_table(dialogues, scores))
        curves = {name: by_turn(score) for name, score in scores.items()}
        write_csv(
            args.by_turn,
            ("turn", *curves),
            ((turn, *(curve[turn] for curve in curves.values())) for turn in curves["base"]),
        )
        write_text(args.samples, samples_as_markdown(samples))
        write_json(args.metrics, metrics)
        record_timing(
            args.timing,
            "eval",
            {
                "seconds": time.monotonic() - started,
                "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            },
        )
        run.summarise({"eval": metrics})
        run.log_samples(
            "eval/samples",
            SAMPLE_COLUMNS,
            samples_as_rows(samples),
            step=trained.get("last_step", 0) + 1,
        )
    before, after = (results[name]["bits_per_byte"] for name in ("base", "tuned"))
    print(f"eval: bits per byte {before:.4f} -> {after:.4f}; continued dialogues: {args.samples}")


def load_model(folder: Path) -> PreTrainedModel:
    """The model in float32 on the GPU if there is one, ready to score."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
        device_map="cuda" if torch.cuda.is_available() else "cpu",
    )
    return model


def measure(
    model: PreTrainedModel, template: Template, dialogues: list[Dialogue], settings: EvalParams
) -> tuple[ResponseScores, dict[str, float]]:
    """Perplexity, context retention and coherence of one model."""
    size = settings.batch_size
    scores = score_responses(model, template, dialogues, batch_size=size)
    alone = score_responses(model, template, dialogues, batch_size=size, with_history=False)
    metrics = summarise(scores) | {"history_gain": history_gain(scores, alone)}
    blocks = make_blocks(
        dialogues,
        num_candidates=settings.coherence_candidates,
        max_blocks=settings.coherence_blocks,
    )
    if blocks:
        hits = context_identification(model, template, blocks, batch_size=size)
        metrics["context_identification"] = float(hits.mean())
        metrics["num_context_identifications"] = len(hits)
    return scores, metrics


def run_that_trained(model: Path, timing: Path) -> dict[str, Any]:
    """Training's section of the timing file, if it is about this very model; else nothing."""
    trained = read_timing(timing).get("train", {})
    return trained if trained.get("model_sha256") == weights_sha256(model) else {}


def declared_params() -> dict[str, Any]:
    """What dvc.yaml declares for this stage, as it stands in params.yaml now."""
    params = load_params()
    return {
        "seed": params.seed,
        "eval": params.eval.model_dump(),
        "train.num_threads": params.train.num_threads,
    }


if __name__ == "__main__":
    run_stage("eval", main)
