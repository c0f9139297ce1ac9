"""Answers that are preferred to others: refused, with the setting that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuning.corpus import pairs
from tuning.corpus.drafts import Draft
from tuning.corpus.faults import Invalid
from tuning.corpus.message_keys import LIST_KEYS
from tuning.corpus.messages import Reader


def is_preference(entry: Any) -> bool:
    """Tell whether an object holds answers of which one is better, or an answer with a label."""
    if not isinstance(entry, dict):
        return False
    is_labelled = isinstance(entry.get("label"), bool)
    is_numbered = entry.get("label") in (0, 1) and (pairs.is_pair(entry) or pairs.is_prompt(entry))
    return is_labelled or is_numbered or _chosen(entry) is not None or _is_arena(entry)


def _chosen(entry: Mapping[str, Any]) -> str | None:
    """The key of the preferred answer, beside which the rejected one stands."""
    names = (key for key in entry if key.startswith("chosen"))
    return next((key for key in names if f"rejected{key[len('chosen') :]}" in entry), None)


def _is_arena(entry: Mapping[str, Any]) -> bool:
    """Two answers, or two conversations, and which of them won."""
    sides = any(key.endswith("_a") and f"{key[:-1]}b" in entry for key in entry)
    return sides and "winner" in entry


def refuse(entry: Any, _reader: Reader) -> list[Draft]:
    """Raise ``Invalid`` that says which setting takes the preferred answers."""
    chosen = _chosen(entry)
    if chosen is None and _is_arena(entry):
        raise Invalid(
            "preference",
            "found 'winner' beside two sides: a preference, which is not trained as if it were "
            "plain. To train on the side that won, say where it is, such as data.columns: {list: "
            "\"winner == 'model_a' && conversation_a || winner == 'model_b' && conversation_b\"}",
        )
    held = f"{chosen!r} and 'rejected{chosen[len('chosen') :]}'" if chosen else "'label'"
    raise Invalid(
        "preference",
        f"found {held}: a preference, which is not trained as if it were plain. To train on the "
        f'preferred answers, say where they are: data.columns: {{list: "{_preferred(entry)}"}}',
    )


def _preferred(entry: Mapping[str, Any]) -> str:
    """The expression that takes a record's preferred answer behind what it answers."""
    chosen = _chosen(entry)
    answer = chosen or "completion"
    before = next((key for key in ("prompt", *LIST_KEYS) if key in entry), None)
    is_text, is_list = (isinstance(entry.get(answer), kind) for kind in (str, list))
    spoken = f"{{role: 'assistant', content: {answer}}}" if is_text else answer
    if before is None or (is_list and isinstance(entry[before], str)):
        turns = answer
    elif isinstance(entry[before], str):
        turns = f"[{{role: 'user', content: {before}}}, {spoken}]"
    else:
        turns = f"[{before}, {answer}][]" if is_list else f"[{before}, [{spoken}]][]"
    if chosen:
        return turns
    return f"label && {turns}" if isinstance(entry["label"], bool) else f"label == `1` && {turns}"
