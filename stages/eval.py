"""Stage 5: base and fine-tuned model on the same validation text; numbers, curves, samples out."""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from stages.corpus.dialogue import Dialogue, read_dialogues
from stages.device import keep_freed_memory, set_threads
from stages.encoding.speakers import PlainText, SpeakerTokens, load_tokenizer
from stages.errors import UserError
from stages.evaluation.blocks import Block, blocks_sha256, make_blocks
from stages.evaluation.coherence import score_coherence, summarise_ranks
from stages.evaluation.context import (
    history_gain_by_turns,
    score_histories,
    shuffled_history_gain,
)
from stages.evaluation.dialogue_table import Column, as_rows
from stages.evaluation.evaluation_set import cut_evaluation_set, text_sha256
from stages.evaluation.generation import (
    SAMPLE_COLUMNS,
    Sample,
    continue_dialogues,
    samples_as_markdown,
    samples_as_rows,
)
from stages.evaluation.headlines import METRIC_VERSION, with_intervals
from stages.evaluation.ngram import baseline_scores
from stages.evaluation.per_dialogue import block_columns, model_columns, text_columns
from stages.evaluation.perplexity import (
    ResponseScores,
    bits_per_byte,
    by_speaker,
    by_turn,
    score_responses,
)
from stages.evaluation.plain_text import all_bits_per_byte
from stages.evaluation.recall import recall_by_distance, score_recall
from stages.evaluation.scoring import drop_rows_without_token
from stages.files import sha256_of, weights_sha256, write_csv, write_json, write_text
from stages.inputs import Inputs
from stages.params import EvalParams, load_params
from stages.process import run_stage
from stages.timing import read_timing, record_timing
from stages.training.tracking import start_run


def main() -> None:
    """Score both models, compare them, write what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validation", type=Path, required=True, help="dialogues, JSONL")
    parser.add_argument("--training", type=Path, required=True, help="for n-gram models, JSONL")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--model", type=Path, required=True, help="the fine-tuned model's folder")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics, JSON")
    parser.add_argument("--dialogues", type=Path, required=True, help="sums per dialogue, CSV")
    parser.add_argument("--by-turn", type=Path, required=True, help="bits per byte by depth, CSV")
    parser.add_argument("--by-history", type=Path, required=True, help="history gain, CSV")
    parser.add_argument("--by-distance", type=Path, required=True, help="recall, CSV")
    parser.add_argument("--samples", type=Path, required=True, help="continued dialogues, Markdown")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    started = time.monotonic()

    params = load_params()
    paths = [args.validation, args.training, args.base, args.model, args.lock]
    inputs = Inputs(paths, declared_params)
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

    blocks = make_blocks(
        dialogues,
        num_candidates=params.eval.coherence_candidates,
        max_blocks=params.eval.coherence_blocks,
    )
    trained = run_that_trained(args.model, args.timing)
    with start_run(
        job_type="eval", config=params.model_dump(), run_id=trained.get("wandb_run_id")
    ) as run:
        measured: dict[str, Measured] = {}
        samples: list[Sample] = []
        for name, folder in (("base", args.base), ("tuned", args.model)):
            print(f"eval: scoring the {name} model on {len(dialogues):,} dialogues", flush=True)
            tokenizer = load_tokenizer(folder)
            model = load_model(folder)
            drop_rows_without_token(model, tokenizer)
            template = PlainText(tokenizer) if name == "base" else SpeakerTokens(tokenizer)
            measured[name] = measure(name, model, template, dialogues, blocks, params.eval)
            measured[name].figures["tokenizer_sha256"] = sha256_of(folder / "tokenizer.json")
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
        base, tuned = measured["base"], measured["tuned"]
        columns = text_columns(base.scores, len(dialogues)) | base.columns | tuned.columns
        headlines = with_intervals(
            columns, num_resamples=params.eval.bootstrap_resamples, seed=params.seed
        )
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
                "num_dialogues_left_out": num_left_out,
                "num_responses": len(base.scores.turn),
                "num_bytes": int(base.scores.num_bytes.sum()),
                "text_sha256": text_sha256(dialogues),
                "blocks_sha256": blocks_sha256(blocks),
                "num_blocks": len(blocks),
                "metric_version": METRIC_VERSION,
            },
        }
        inputs.check_unchanged()
        write_csv(args.dialogues, *as_rows((d.dialogue_id for d in dialogues), columns))
        for path, x in (
            (args.by_turn, "turn"),
            (args.by_history, "num_turns"),
            (args.by_distance, "distance"),
        ):
            curves = {name: one.curves[x] for name, one in measured.items()}
            rows = ((at, *(curve[at] for curve in curves.values())) for at in curves["base"])
            write_csv(path, (x, *curves), rows)
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
    before, after = (headlines[name]["bits_per_byte"] for name in ("base", "tuned"))
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


@dataclass(frozen=True)
class Measured:
    """What one model was found to do on the evaluation set."""

    scores: ResponseScores
    columns: dict[str, Column]
    """Its sums per dialogue, from which the headlines follow."""
    figures: dict[str, float | str]
    """What is no headline, by its name in the metrics file."""
    curves: dict[str, dict[int, float]]
    """Bits per byte by ``turn``, history gain by ``num_turns``, recall by ``distance``."""


def measure(
    name: str,
    model: PreTrainedModel,
    template: PlainText | SpeakerTokens,
    dialogues: list[Dialogue],
    blocks: list[Block],
    settings: EvalParams,
) -> Measured:
    """Perplexity, context retention and coherence of one model."""
    size = settings.batch_size
    scores = score_responses(model, template, dialogues, batch_size=size)
    alone = score_responses(model, template, dialogues, batch_size=size, with_history=False)
    columns = model_columns(name, scores, alone, len(dialogues))
    figures: dict[str, float | str] = {
        "template": "plain_text" if isinstance(template, PlainText) else "speaker_tokens",
        "num_target_tokens": int(scores.num_tokens.sum()) + len(scores.turn),
        "all_bits_per_byte": all_bits_per_byte(
            model, template.tokenizer, dialogues, batch_size=size
        ),
    }
    for speaker, bits in by_speaker(scores).items():
        figures[f"bits_per_byte_speaker{speaker + 1}"] = bits
    if blocks:
        items = score_coherence(model, template, blocks, batch_size=size)
        columns |= block_columns(name, items, len(dialogues))
        figures |= summarise_ranks(items)
    curves = {"turn": by_turn(scores), "num_turns": {}, "distance": {}}
    if settings.history_responses:
        histories = score_histories(
            model,
            template,
            dialogues,
            scores,
            alone,
            num_responses=settings.history_responses,
            batch_size=size,
        )
        curves["num_turns"] = history_gain_by_turns(histories)
        figures["shuffled_history_gain"] = shuffled_history_gain(histories)
    if settings.recall:
        recalled = score_recall(model, template, dialogues, batch_size=size)
        curves["distance"] = recall_by_distance(recalled)
        if len(recalled.hits):
            figures["recall"] = float(recalled.hits.mean())
    return Measured(scores, columns, figures, curves)


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
