"""What of several evaluations may be compared, and why the rest may not."""

from __future__ import annotations

from collections.abc import Sequence

from tools.compare.revisions import Evaluation
from tuning.report.headlines import PRIMARY, Headline

_SET_PARTS = {
    "text_sha256": "the text",
    "metric_version": "the definition of the metrics",
    "num_dialogues": "the number of dialogues",
    "num_responses": "the number of responses",
    "num_bytes": "the number of bytes",
    "dtype": "score.dtype",
}
_DEFAULTS = {"metric_version": 1, "dtype": "float32"}
_BLOCK_COLUMNS = {"block_bytes", "num_context_items"}
_PLACES = {
    "num_recall_items": "questions differ",
    "num_call_places": "places differ",
    "num_word_places": "places differ",
}
"""Counts of what was chosen to be measured on, and what is said where they differ."""
_IDENTITY = {"tokenizer_sha256": "tokenizer", "template": "template"}
_TEMPLATE_NAMES = {"plain_text": "plain", "speaker_tokens": "speakers"}
"""Names of templates in evaluations of older revisions, and what the same ones are called now."""


def declared_primary(one: Evaluation) -> str:
    """Return the headline that was declared before the evaluation (``eval.primary``)."""
    return str(one.metrics["set"].get("primary", PRIMARY))


def set_differences(first: Evaluation, other: Evaluation) -> list[str]:
    """Return in what two evaluation sets differ, with both values; nothing for the same set."""
    ours, theirs = (_DEFAULTS | dict(one.metrics["set"]) for one in (first, other))
    differences = [
        f"{title} ({_shown(ours.get(key))} and {_shown(theirs.get(key))})"
        for key, title in _SET_PARTS.items()
        if ours.get(key) != theirs.get(key)
    ]
    if not differences and set(first.dialogue_ids) != set(other.dialogue_ids):
        return ["the ids of the dialogues"]
    return differences


def _shown(value: object) -> str:
    if isinstance(value, str) and len(value) > 12:
        return f"{value[:12]}…"
    return (
        "not recorded" if value is None else f"{value:,}" if isinstance(value, int) else f"{value}"
    )


def reason_against(headline: Headline, measured: Sequence[tuple[Evaluation, str]]) -> str | None:
    """Return why a headline must not be compared: other tokens, templates, blocks or questions.

    Args:
        headline: The metric.
        measured: Evaluations of one set, each with the model (``base`` or ``tuned``) that is meant.
    """
    evaluations = [one for one, _ in measured]
    if _BLOCK_COLUMNS.intersection(headline.denominator):
        blocks = {one.metrics["set"].get("blocks_sha256") for one in evaluations}
        return "blocks differ" if len(blocks) > 1 else None
    for column, reason in _PLACES.items():
        if column in headline.denominator:
            asked = {
                tuple(sorted(zip(one.dialogue_ids, one.table[column], strict=True)))
                for one in evaluations
                if column in one.table
            }
            return reason if len(asked) > 1 else None
    if not headline.one_tokenizer_only:
        return None
    for key, title in _IDENTITY.items():
        values = [one.metrics[model].get(key) for one, model in measured]
        found = {_TEMPLATE_NAMES.get(value, value) for value in values}
        if None in found:
            return f"{title} not recorded"
        if len(found) > 1:
            return f"{title}s differ"
    return None


def largest_set(evaluations: Sequence[Evaluation]) -> tuple[list[Evaluation], list[str]]:
    """Return the most evaluations of one set and primary headline; of the others, why not they.

    Of sets with as many evaluations it is the one that was named first.
    """
    groups: list[list[Evaluation]] = []
    for one in evaluations:
        for group in groups:
            if not _differences(group[0], one):
                group.append(one)
                break
        else:
            groups.append([one])
    chosen = max(groups, key=len, default=[])
    reasons = [
        f"{one.label}: not what the table was measured on: "
        f"{'; '.join(_differences(chosen[0], one))}"
        for group in groups
        if group is not chosen
        for one in group
    ]
    return chosen, reasons


def _differences(first: Evaluation, other: Evaluation) -> list[str]:
    differences = set_differences(first, other)
    ours, theirs = declared_primary(first), declared_primary(other)
    if ours != theirs:
        differences.append(f"the primary headline ({ours} and {theirs})")
    return differences
