"""The figures of benchmarks/gpu.py as Markdown, for docs/figures.md."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.tables import markdown

NOTES = """\
tokens/s counts the dialogues' tokens, without padding, from the third optimizer step on. Share of
the peak: 6 operations per weight of a linear layer and token (4 where it is frozen; the head for
target tokens only; no attention, nothing that is computed twice) over the bf16 peak of the products
of the model's own layers, measured before and after. Memory is the most that tensors held, planned
is what make preflight says. The plain loop is transformers' Trainer written out: the same windows
in each step, as many at a time as there are rows a pass, padded to the longest, SDPA, autocast,
fused AdamW, logits for every token.
"""

Row = Mapping[str, Any]


def report(content: Mapping[str, Any]) -> str:
    """Return all tables; a row that has no figures says why."""
    about, rows = content["about"], content["rows"]
    of_part: dict[str, list[Row]] = {}
    for row in rows:
        of_part.setdefault(row["part"], []).append(row)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    tables: dict[str, Callable[[list[Row]], str]] = {
        "agree": _agreement,
        "resume": _resumption,
        "train": partial(_training, plans=of_part.get("plan", [])),
        "score": _scoring,
    }
    parts = [
        f"{about['device']}, {about['memory_gb']:.0f} GB, bf16 peak of a large square product "
        f"{about['peak_tflops']:,.0f} TFLOP/s; {versions}.",
        *(table(of_part[part]) for part, table in tables.items() if part in of_part),
        textwrap.fill(NOTES, 120),
    ]
    return "\n\n".join(parts) + "\n"


def _agreement(rows: list[Row]) -> str:
    (row,) = rows
    header = ("against the CPU in float32", "loss differs by", "gradients by at most", "of")
    if "differences" not in row:
        return markdown(header, [(row["outcome"], "", "", "")])
    lines = [
        (what, f"{each['loss']:.1e}", f"{each['gradient']:.1e}", f"`{each['largest_in']}`")
        for what, each in row["differences"].items()
    ]
    return markdown(header, lines)


def _resumption(rows: list[Row]) -> str:
    named = {row["run"]: row for row in rows}
    lines = [(name, row["outcome"], *_end(row)) for name, row in named.items()]
    hashes = [named.get(name, {}).get("weights_sha256") for name in ("uninterrupted", "continued")]
    verdict = "not shown, for not all of them ended"
    if all(hashes):
        verdict = "the same bytes" if len(set(hashes)) == 1 else "OTHER BYTES"
    table = markdown(("run", "outcome", "steps it made", "weights", "all deterministic"), lines)
    return f"{table}\n\nA run that was killed and continued, against one left alone: {verdict}."


def _end(row: Row) -> tuple[str, str, str]:
    if "weights_sha256" not in row:
        return "", "", ""
    steps = f"{row['num_steps_here']} of {row['num_steps']}"
    return steps, f"`{row['weights_sha256'][:12]}`", "yes" if row["is_deterministic"] else "no"


def _training(rows: list[Row], *, plans: list[Row]) -> str:
    header = (
        *("model", "what is trained", "by", "rows a pass", "tokens/s", "faster by"),
        *("TFLOP/s", "of the peak", "peak memory GB", "planned", "first loss"),
    )
    planned = {
        (row["size"], row["method"]): f"{row['planned_memory_gb']:.1f}"
        for row in plans
        if "planned_memory_gb" in row
    }
    plain = {
        (row["size"], row["method"]): row["tokens_per_second"]
        for row in rows
        if row["by"] == "plain loop" and "tokens_per_second" in row
    }
    lines = []
    for row in rows:
        names = (row["size"], row["method"], row["by"])
        if "tokens_per_second" not in row:
            lines.append((*names, row["outcome"], *[""] * 7))
            continue
        is_ours = row["by"] == "this project"
        against = plain.get(names[:2]) if is_ours else None
        lines.append(
            (
                *names,
                f"{row['rows_per_pass']} x {row['max_length']:,}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['tokens_per_second'] / against:.1f}" if against else "",
                f"{row['tflops']:,.4g}",
                f"{row['share_of_peak']:.0%}",
                f"{row['peak_memory_gb']:.1f}",
                planned.get(names[:2], "") if is_ours else "",
                f"{row['first_loss']:.4f}",
            )
        )
    return markdown(header, lines)


def _scoring(rows: list[Row]) -> str:
    header = ("model", "type", "score.batch_size", "tokens/s", "peak memory GB")
    lines = []
    for row in rows:
        names = (row["size"], row["dtype"])
        if "tokens_per_second" not in row:
            lines.append((*names, row["outcome"], "", ""))
            continue
        lines += [
            (*names, size, f"{speed:,.0f}", f"{row['peak_memory_gb']:.1f}")
            for size, speed in row["tokens_per_second"].items()
        ]
    return markdown(header, lines)
