"""Our scores and their speed beside lm-evaluation-harness's, same model, same text, one process.

    ../peers/bin/python -m benchmarks.eval --model models/base --validation data/prepared/val.jsonl

The harness is no dependency of the project. Make an environment for it as the head of
benchmarks/requirements.txt shows, and install ``--no-deps`` lm_eval==0.4.13 there.

Responses are its ``loglikelihood`` of a turn's text after the plain template's text before it, a
request per response; whole texts are its ``loglikelihood_rolling``. The share of the matrix peak is
that of this machine's float32 products, measured in the same run: the linear layers' operations for
every token that is read, the head's for those that are scored; padding and attention count nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tuning.dialogue import Dialogue, read_dialogues
from tuning.evaluation_set.text import cut_evaluation_set
from tuning.language_model.device import Device, keep_freed_memory, set_threads
from tuning.results.response_scores import responses
from tuning.run.params import load_params
from tuning.run.process import die_with_parent
from tuning.scoring.nats import score
from tuning.scoring.perplexity import score_responses
from tuning.scoring.plain_text import rolling_nll, text_of
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.texts import encode_texts
from tuning.tokens.tokenizer import load_tokenizer
from tuning.training.flops import flops_per_token, linear_shapes, matmul_peak

Result = TypeVar("Result")


def main() -> None:
    """Score with both, compare, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a base model's folder")
    parser.add_argument("--validation", type=Path, required=True, help="as prep writes it, JSONL")
    parser.add_argument("--dialogues", type=int, help="how many; score.max_dialogues if not given")
    parser.add_argument("--window", type=int, default=256, help="tokens per rolling window")
    args = parser.parse_args()
    keep_freed_memory()
    params = load_params()
    set_threads(params.num_threads)
    dialogues, _ = cut_evaluation_set(
        read_dialogues(args.validation),
        max_dialogues=args.dialogues or params.score.max_dialogues,
        max_turns=params.score.max_turns,
        max_bytes=params.score.max_bytes,
        loss_on=params.encoding.loss_on,
    )
    tokenizer = load_tokenizer(args.model)
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    size = params.score.batch_size
    harness = importlib.import_module("lm_eval.models.huggingface")
    instance = importlib.import_module("lm_eval.api.instance").Instance

    def theirs(kind: str, requests: Sequence[tuple[str, ...]], max_length: int | None) -> list[Any]:
        scorer = harness.HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=size, max_length=max_length
        )
        instances = [
            instance(request_type=kind, doc={}, arguments=request, idx=number)
            for number, request in enumerate(requests)
        ]
        answers: list[Any] = getattr(scorer, kind)(instances)
        return answers

    template = PlainLines(tokenizer)
    score(model, score_responses(template, dialogues[:1]), batch_size=size)  # warm up
    ours, our_seconds = timed(
        lambda: score(model, score_responses(template, dialogues), batch_size=size)
    )
    requests = [request(dialogues[d], t) for d, t in responses(dialogues)]
    answers, their_seconds = timed(lambda: theirs("loglikelihood", requests, None))
    report = {
        "responses": compared(
            ours.content_nll,
            [-log_probability for log_probability, _ in answers],
            int(ours.num_tokens.sum()),
            our_seconds,
            their_seconds,
        )
    }
    texts = [text_of(dialogue) for dialogue in dialogues]
    num_tokens = sum(map(len, encode_texts(tokenizer, texts)))
    nll, our_seconds = timed(
        lambda: score(model, rolling_nll(tokenizer, texts, max_length=args.window), batch_size=size)
    )
    answers, their_seconds = timed(
        lambda: theirs("loglikelihood_rolling", [(text,) for text in texts], args.window)
    )
    report["whole_texts"] = compared(
        nll, [-answer for answer in answers], num_tokens, our_seconds, their_seconds
    )
    body, head = (operations // 3 for operations in flops_per_token(model))  # a forward pass alone
    device = Device(kind="cpu", precision="no", compiled=False, notes=())
    peak = matmul_peak(linear_shapes(model), device)
    num_read = sum(len(turn) for one in dialogues for turn in template.encode(one))
    for scores, num_seen in zip(report.values(), (num_read, num_tokens), strict=True):
        operations = body * num_seen + head * scores["num_target_tokens"]
        used = operations * scores["our_tokens_per_second"] / scores["num_target_tokens"]
        scores["share_of_matrix_peak"] = used / peak
    num_bytes = sum(len(text.encode()) for text in texts)
    report["whole_texts"]["bits_per_byte"] = float(nll.sum() / (math.log(2) * num_bytes))
    about = {"num_dialogues": len(dialogues), "batch_size": size, "flops_per_second": peak}
    print(json.dumps(about | report, indent=2))


def request(dialogue: Dialogue, turn_index: int) -> tuple[str, str]:
    """The plain template's text before a response, and the response."""
    names = {speaker: chr(ord("A") + index) for index, speaker in enumerate(dialogue.speakers)}
    before = "".join(
        f"{names[turn.speaker]}: {turn.utterance}\n" for turn in dialogue.turns[:turn_index]
    )
    turn = dialogue.turns[turn_index]
    return f"{before}{names[turn.speaker]}:", f" {turn.utterance}"


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Call ``work``; return its result and its seconds."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def compared(
    ours: Any, theirs: Sequence[float], num_tokens: int, our_seconds: float, their_seconds: float
) -> dict[str, float]:
    """Nats of both ``[N]``, summed, with their largest relative difference; target tokens/s."""
    our_nll, their_nll = np.asarray(ours), np.asarray(theirs)
    return {
        "num_target_tokens": num_tokens,
        "our_nll": float(our_nll.sum()),
        "their_nll": float(their_nll.sum()),
        "relative_difference": float(abs(our_nll.sum() / their_nll.sum() - 1)),
        "largest_relative_difference": float(abs(our_nll / their_nll - 1).max()),
        "our_tokens_per_second": num_tokens / our_seconds,
        "their_tokens_per_second": num_tokens / their_seconds,
        "speedup": their_seconds / our_seconds,
    }


if __name__ == "__main__":
    die_with_parent()
    main()
