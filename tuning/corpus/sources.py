"""The sources of a mixture: whose a file is, how it is read, how often it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuning.corpus.duplicates import Ints, UInts
from tuning.corpus.split import draw
from tuning.data_names import matches
from tuning.reading.folders import Found
from tuning.run.errors import UserError
from tuning.run.params import DataParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files that are read in one way."""

    number: int
    name: str
    """Empty where it is the only one."""
    patterns: Sequence[str]
    """Of its files below ``data.path``."""
    data: DataParams
    """With the columns and roles of this source."""
    weight: float
    """How often each of its training dialogues is trained per epoch."""
    loss_on: str
    """Which of its turns are trained; empty where ``encoding.loss_on`` says so."""


def sources_of(data: DataParams) -> list[Source]:
    """The sources of ``data.sources``, or the nameless one of all files."""
    if not data.sources:
        return [Source(number=0, name="", patterns=["**"], data=data, weight=1, loss_on="")]
    return [
        Source(
            number=number,
            name=name,
            patterns=one.files,
            data=data.model_copy(
                update={
                    "columns": data.columns if one.columns is None else one.columns,
                    "roles": data.roles if one.roles is None else one.roles,
                }
            ),
            weight=one.weight,
            loss_on=one.loss_on or "",
        )
        for number, (name, one) in enumerate(data.sources.items())
    ]


def assigned(
    path: Path, found: Found, sources: Sequence[Source]
) -> tuple[list[tuple[Path, Source]], list[str]]:
    """Each file with its source, and the names of those that none takes, others included.

    Raises:
        UserError: two sources take one file, or a source takes none.
    """
    if not sources[0].name:
        return [(file, sources[0]) for file in found.files], found.passed_over
    if not path.is_dir():
        raise UserError(
            f"data.sources: their files are sought below data.path, and {path} is no folder. Set "
            "data.path to the folder that holds them."
        )
    taken: list[tuple[Path, Source]] = []
    passed_over = list(found.passed_over)
    for file in found.files:
        name = file.relative_to(path)
        takers = [s for s in sources if any(matches(name, pattern) for pattern in s.patterns)]
        if len(takers) > 1:
            named = " and ".join(f"data.sources.{source.name}" for source in takers)
            raise UserError(f"{file}: {named} both take it; narrow the files of one of them.")
        if takers:
            taken.append((file, takers[0]))
        else:
            passed_over.append(str(name))
    with_files = {source.number for _, source in taken}
    for source in sources:
        if source.number not in with_files:
            there = ", ".join(str(file.relative_to(path)) for file in found.files[:8])
            raise UserError(
                f"data.sources.{source.name}.files: no data file below {path} fits "
                f"{', '.join(source.patterns)}; there are {there}"
                f"{' and others' * (len(found.files) > 8)}."
            )
    return taken, sorted(passed_over)


def num_copies(order: UInts, weight: float) -> Ints:
    """``[D]``: how often each dialogue is trained; their mean comes near the weight.

    Every dialogue is taken as often as the weight's whole part says, and once more if a hash of its
    content falls below the rest. So a larger weight only adds, and no weight of another source, nor
    any other dialogue, changes what is taken.

    Args:
        order: ``[D]``, a hash of each dialogue's content.
        weight: From 0.
    """
    copies = np.full(len(order), int(weight), np.int64)
    rest = weight - int(weight)
    if rest:
        drawn = [draw(content.to_bytes(8, "big"), "weight") / 2**64 for content in order.tolist()]
        copies += np.array(drawn, np.float64) < rest
    return copies
