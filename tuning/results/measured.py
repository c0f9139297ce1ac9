"""All that was measured of one model on the evaluation set: the file that score leaves to eval."""

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
    """A response part by part, and how surprising each part was."""

    parts: tuple[str, ...]
    """``[P]`` Joined they are the text."""
    nats: tuple[float, ...]
    """``[P]`` −ln p under a model."""


@dataclass(frozen=True)
class Written:
    """A model's responses in the places, in the places' order."""

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
    """Figures that are no headlines, by their names in the metrics file."""
    curves: dict[str, Curve]
    """Bits per byte by ``turn``, history gain by ``num_turns``, recall by ``distance``."""
    also: dict[str, dict[str, Column]]
    """Columns of further evaluation sets, by the set's name: sums of its own texts."""
    written: Written
    """Its responses in the places."""
    chats: list[Sample]
    """Dialogues that it went on with by itself."""
    people: list[ScoredText]
    """People's responses in the places that are shown, and how each surprises the model."""
    weights_sha256: str
    """Hash of the weights of the model that all this is about."""
    not_encodable: list[str]
    """Ids of the validation dialogues left out since the model's tokenizer changes their text."""


def write_measured(path: Path, measured: Measured) -> None:
    """Write JSON; floats stand there in full, so reading them back is exact."""
    content = json.dumps(asdict(measured), default=_as_list, ensure_ascii=False, allow_nan=False)
    write_text(path, content + "\n")


def read_measured(path: Path) -> Measured:
    """Read what ``write_measured`` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    columns = _as_columns(content["columns"])
    num_dialogues = len(next(iter(columns.values())))
    return Measured(
        columns=columns,
        figures=content["figures"],
        curves={axis: _as_curve(curve, num_dialogues) for axis, curve in content["curves"].items()},
        also={name: _as_columns(one) for name, one in content["also"].items()},
        written=TypeAdapter(Written).validate_python(content["written"]),
        chats=TypeAdapter(list[Sample]).validate_python(content["chats"]),
        people=TypeAdapter(list[ScoredText]).validate_python(content["people"]),
        weights_sha256=content["weights_sha256"],
        not_encodable=content["not_encodable"],
    )


def _as_list(array: NDArray[np.generic]) -> object:
    return array.tolist()


def _as_columns(content: Mapping[str, list[float]]) -> dict[str, Column]:
    return {name: np.array(column) for name, column in content.items()}


def _as_curve(content: Mapping[str, list[int]], num_dialogues: int) -> Curve:
    points = tuple(content["points"])
    numerators, denominators = (
        np.array(content[name], dtype=np.float64).reshape(len(points), num_dialogues)
        for name in ("numerators", "denominators")
    )
    return Curve(points, numerators, denominators)
