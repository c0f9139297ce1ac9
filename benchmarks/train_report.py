"""The results of benchmarks/train.py as Markdown tables, with what the figures mean."""

from __future__ import annotations

import statistics
import textwrap
from dataclasses import dataclass

from benchmarks.prep import spread
from benchmarks.tables import markdown

CONTENDERS = {
    "project": "this project",
    "trl": "TRL",
    "trl-packed": "TRL, packing",
    "trainer": "Trainer",
    "trainer-compiled": "Trainer, compiled",
}
NOTES = """\
Useful tokens are real tokens that are predicted: no padding, no repeated context. tokens/s and
the share of the peak leave out the first optimizer step. The epoch is from prepared text to a saved
model, start-up and tokenising included{extrapolated}; a peer cuts each dialogue at max_length, so
its epoch trains fewer tokens (cut off: the share of the dialogues' tokens that this loses). Memory
is the maximum resident set of the largest process. The loss is the mean over a contender's first
steps up to {num_equal_tokens:,} useful tokens; this project's targets are utterances and turn ends,
the peers' (and their tokens/s) also their chat template's constant text, and TRL's default learning
rate is 2e-5 where the others have 5e-5: it shows that all learn, not who learns better. Share of
peak: 6 operations per weight of the linear layers ({num_weights:,}, output head included; no
attention, nothing that is computed twice) per processed token, padding included and as if all of
them went through the head, over the bf16 matrix-multiply peak measured before, between and after
the runs. TRL packs best-fit decreasing and flattens a batch into one row; transformers
{transformers} keeps its dialogues apart under SDPA, by their position ids.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that all contenders share."""

    dialogues: int
    max_length: int
    batch_size: int
    accumulation: int
    steps: int | None
    """Optimizer steps; none for a whole epoch."""
    epoch_dialogues: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run of one contender."""

    tokens_per_second: float
    """Useful tokens per second, from the second step on."""
    processed_per_second: float
    """The same with padding and context."""
    first_step_seconds: float
    """Seconds from the start of training to the end of the first step."""
    epoch_seconds: float
    """Seconds of an epoch of ``epoch_dialogues``, from prepared text to a saved model; extrapolated
    unless run."""
    peak_gb: float
    """Maximum resident set, in gigabytes."""
    losses: list[tuple[float, float]]
    """Per optimizer step: useful tokens, nats per useful token."""
    num_target_tokens: int
    """Useful tokens of an epoch of the dialogues."""
    share_cut: float
    """Share of the dialogues' tokens that are not trained, as they are past ``max_length``."""


def print_tables(
    runs: dict[str, list[Figures]],
    peaks: list[dict[str, float]],
    settings: Settings,
    transformers: str,
) -> None:
    """Medians with the least and the greatest, then what this project is of each peer."""
    flops = tuple(peak["flops_per_second"] / 1e9 for peak in peaks)
    num_weights = int(peaks[0]["num_weights"])
    peak = statistics.median(flops)
    equal = int(min(sum(n for n, _ in run.losses) for figures in runs.values() for run in figures))
    about = "" if settings.steps is None else "≈ "
    print(
        f"\n{settings.dialogues} dialogues, batch {settings.batch_size} x {settings.accumulation}, "
        f"max_length {settings.max_length}; bf16 matrix peak {spread(flops)} GFLOP/s\n"
    )
    header = (
        "contender",
        "useful tokens/s",
        "first step s, cold",
        "warm",
        f"{about}epoch of {settings.epoch_dialogues} s",
        "its useful tokens",
        "cut off",
        "peak GB",
        f"loss at {equal:,}",
        "of peak",
    )
    rows = []
    for contender, figures in runs.items():
        warm = tuple(run.first_step_seconds for run in figures[1:])
        first = figures[0]
        num_epoch = first.num_target_tokens * settings.epoch_dialogues // settings.dialogues
        share = tuple(600 * num_weights * run.processed_per_second / peak / 1e9 for run in figures)
        rows.append(
            (
                CONTENDERS[contender],
                spread(tuple(run.tokens_per_second for run in figures)),
                spread((first.first_step_seconds,)),
                spread(warm) if warm else "–",
                spread(tuple(run.epoch_seconds for run in figures)),
                f"{num_epoch:,}",
                f"{first.share_cut:.0%}",
                spread(tuple(run.peak_gb for run in figures)),
                f"{statistics.median(loss_at(run.losses, equal) for run in figures):.3f}",
                f"{spread(share)} %",
            )
        )
    print(markdown(header, rows))
    if "project" in runs and len(runs) > 1:
        print()
        ratios = [
            (
                f"this project / {CONTENDERS[contender]}",
                spread(ratio(runs["project"], figures, "tokens_per_second")),
                spread(ratio(runs["project"], figures, "peak_gb")),
            )
            for contender, figures in runs.items()
            if contender != "project"
        ]
        print(markdown(("ratio, run by run", "useful tokens/s", "peak memory"), ratios))
    notes = NOTES.format(
        extrapolated=", extrapolated from tokens/s" if about else "",
        num_equal_tokens=equal,
        num_weights=num_weights,
        transformers=transformers,
    )
    print("", textwrap.fill(notes, 100), sep="\n")


def loss_at(losses: list[tuple[float, float]], num_tokens: int) -> float:
    """Mean nats per token over the first steps, until ``num_tokens`` have been seen."""
    seen = total = 0.0
    for count, loss in losses:
        if seen >= num_tokens:
            break
        seen += count
        total += count * loss
    return total / seen


def ratio(ours: list[Figures], theirs: list[Figures], figure: str) -> tuple[float, ...]:
    """One contender's figure over another's, in each round."""
    pairs = zip(ours, theirs, strict=True)
    return tuple(getattr(one, figure) / getattr(other, figure) for one, other in pairs)
