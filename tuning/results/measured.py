"""What one model was found to do on the evaluation set: what score leaves to eval, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from tuning.evaluation_set.places import Response
from tuning.results.curves import Curve
from tuning.results.dialogue_table import Column
from tuning.results.samples import Sample
from tuning.run.files import write_text


@dataclass(frozen=True)
class ScoredText:
    """A response piece by piece, and how surprising each piece was."""

    pieces: tuple[str, ...]
    """``[P]`` Joined they are the text."""
    nats: tuple[float, ...]
    """``[P]`` −ln p under a model."""


@dataclass(frozen=True)
class Written:
    """What a model wrote in the places, in their order."""

    greedy: list[Response]
    sampled: list[Response]
    """Place by place with the first seed, then with the next."""
    shown: list[ScoredText]
    """The greedy responses, token by token."""


@dataclass(frozen=True)
class Measured:
    """Perplexity, context retention, coherence and writing of one model."""

    columns: dict[str, Column]
    """Sums per dialogue, from which the headlines follow; those of the model begin with its name,
    the others are the text's."""
    figures: dict[str, float | str]
    """What is no headline, by its name in the metrics file."""
    curves: dict[str, Curve]
    """Bits per byte by ``turn``, history gain by ``num_turns``, recall by ``distance``."""
    written: Written
    """What it wrote in the places."""
    chats: list[Sample]
    """Dialogues that it went on with by itself."""
    people: list[ScoredText]
    """What people wrote in the places that are shown, and how it surprises the model."""
    weights_sha256: str
    """Of the model that all this is about."""


def write_measured(path: Path, measured: Measured) -> None:
    """Write JSON; floats stand there in full, so reading them back is exact."""
    content = json.dumps(asdict(measured), default=_as_list, ensure_ascii=False, allow_nan=False)
    write_text(path, content + "\n")


def read_measured(path: Path) -> Measured:
    """What ``write_measured`` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    columns = {name: np.array(column) for name, column in content["columns"].items()}
    num_dialogues = len(next(iter(columns.values())))
    return Measured(
        columns=columns,
        figures=content["figures"],
        curves={axis: _as_curve(curve, num_dialogues) for axis, curve in content["curves"].items()},
        written=TypeAdapter(Written).validate_python(content["written"]),
        chats=TypeAdapter(list[Sample]).validate_python(content["chats"]),
        people=TypeAdapter(list[ScoredText]).validate_python(content["people"]),
        weights_sha256=content["weights_sha256"],
    )


def _as_list(array: NDArray[np.generic]) -> object:
    return array.tolist()


def _as_curve(content: Mapping[str, list[int]], num_dialogues: int) -> Curve:
    places = tuple(content["places"])
    numerators, denominators = (
        np.array(content[name], dtype=np.float64).reshape(len(places), num_dialogues)
        for name in ("numerators", "denominators")
    )
    return Curve(places, numerators, denominators)
