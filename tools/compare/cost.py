"""What runs cost: minutes and memory of training, minutes of scoring, tokens that were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tools.compare.revisions import Evaluation

MOST = 1e15
"""What no seconds, gigabytes or tokens reach."""


@dataclass(frozen=True)
class Cost:
    """Of one run; None for what is not known."""

    train_minutes: float | None
    """Mean over the runs."""
    score_minutes: float | None
    """Mean over the runs."""
    peak_memory_gb: float | None
    """Of training, in the run that took most."""
    num_target_tokens: float | None
    """Trained in an epoch."""


def cost_of(runs: Sequence[Evaluation], every: Sequence[Evaluation], model: str) -> Cost:
    """Return the cost of a configuration's runs; nothing is trained for ``base``.

    DVC hashes no timing, so a model that comes from its cache leaves the record of another one
    where it is. Such a record is known by the hash of the model: two trainings with other figures
    have one. Then neither is believed.

    Args:
        runs: One evaluation of each run of the configuration.
        every: Those of all configurations.
        model: ``base`` or ``tuned``.
    """
    if model == "base":
        scored = _mean_minutes([_section(one.timing, "score_base") for one in runs])
        return Cost(None, scored, None, None)
    known = [one.timing for one in runs if not _is_shared(one, every)]
    train = [_section(timing, "train") for timing in known]
    score = [_section(timing, "score_tuned") for timing in known]
    memory = [gb for one in train if (gb := figure(one, "peak_memory_gb")) is not None]
    return Cost(
        train_minutes=_mean_minutes(train),
        score_minutes=_mean_minutes(score),
        peak_memory_gb=max(memory, default=None),
        num_target_tokens=figure(runs[0].training, "num_target_tokens"),
    )


def figure(section: Mapping[str, Any], key: str) -> float | None:
    """Return a number of a file of figures; None where there is none, or none that can be."""
    value = section.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST:
        return value
    return None


def _is_shared(one: Evaluation, every: Sequence[Evaluation]) -> bool:
    model = _section(one.timing, "train").get("model_sha256")
    return model is not None and any(
        _section(other.timing, "train").get("model_sha256") == model
        and other.training != one.training
        for other in every
    )


def _section(timing: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = timing.get(name)
    return section if isinstance(section, Mapping) else {}


def _mean_minutes(sections: Sequence[Mapping[str, Any]]) -> float | None:
    seconds = [number for one in sections if (number := figure(one, "seconds")) is not None]
    return fmean(seconds) / 60 if seconds else None
