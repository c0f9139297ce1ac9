"""``metrics/generation.json``: the quality of what both models and people wrote, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tuning.evaluation_set.places import Response
from tuning.report.quality import (
    Measures,
    copied_runs,
    loop_rate,
    measure_quality,
    signatures,
)
from tuning.results.measured import Written
from tuning.results.samples import Sample

Relevance = Callable[[Sequence[Response]], float | None]


def measure_writing(
    written: Mapping[str, Written],
    chats: Mapping[str, Sequence[Sample]],
    people: Sequence[Response],
    training_texts: Iterable[str],
    relevance: Relevance | None,
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, dict[str, Measures]]:
    """Return model -> ``greedy`` or ``sampled`` -> measures; people's are ``people`` -> ``said``.

    Args:
        written: Each model's responses in the places.
        chats: The same dialogues as each model went on with them by itself.
        people: People's own responses in the places.
        training_texts: Read once.
        relevance: The function that measures relevance; None leaves it out.
        num_resamples: Resamples of the dialogues behind each interval.
        seed: Seed of the resamples.
    """
    columns = {
        (name, way): responses
        for name, one in written.items()
        for way, responses in (("greedy", one.greedy), ("sampled", one.sampled))
    }
    columns["people", "said"] = list(people)
    copied = copied_runs((one for column in columns.values() for one in column), training_texts)
    table: dict[str, dict[str, Measures]] = {}
    for (name, way), responses in columns.items():
        found = measure_quality(responses, copied, num_resamples=num_resamples, seed=seed)
        value = relevance(responses) if relevance else None
        if value is not None:
            found.values["relevance"] = value
        table.setdefault(name, {})[way] = found
    for name, samples in chats.items():
        if samples:
            replies = [[turn.text for turn in one.reply] for one in samples]
            table[name]["sampled"].values["loop_rate"] = loop_rate(replies)
            human = [[turn.text for turn in one.human] for one in samples]
            table["people"]["said"].values["loop_rate"] = loop_rate(human)
    return table


def as_metrics(table: Mapping[str, Mapping[str, Measures]], num_places: int) -> dict[str, Any]:
    """The values, and how they were counted."""
    values: dict[str, Any] = {
        name: {way: measures.values for way, measures in ways.items()}
        for name, ways in table.items()
    }
    return values | {"counted": {"num_places": num_places, **signatures()}}


def shares_by_length(columns: Mapping[str, Sequence[int]]) -> list[tuple[float, ...]]:
    """Rows ``(words, share of each column's responses with at most so many, …)``."""
    longest = max(max(lengths) for lengths in columns.values())
    return [
        (
            words,
            *(
                sum(length <= words for length in lengths) / len(lengths)
                for lengths in columns.values()
            ),
        )
        for words in range(longest + 1)
    ]
