"""What score leaves to eval comes back bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tuning.dialogue import Turn
from tuning.evaluation_set.places import Response
from tuning.results.curves import Curve
from tuning.results.measured import (
    Measured,
    ScoredText,
    Written,
    read_measured,
    write_measured,
)
from tuning.results.samples import Sample

AWKWARD = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2.0]
TEXTS = ('She said "no"\\', "na\u00efve \U0001f642\u2028", "", "\ud7ff\t\n")


def make_measured() -> Measured:
    response = Response(3, TEXTS[0], TEXTS, TEXTS[1], has_ended=False, has_tag=True)
    shown = ScoredText(TEXTS, (0.1, 0.2, 0.0, 1 / 7))
    turns = (Turn("Ann", TEXTS[1]), Turn("Bob", TEXTS[3]))
    return Measured(
        columns={
            "num_bytes": np.array([1, 2**60, 0, 3, 4, 5]),
            "base_content_nll": np.array(AWKWARD),
            "base_whole": np.array([1.0, 2.0] * 3),
        },
        figures={"bits": 1 / 3, "template": "plain_text", "num_target_tokens": 7},
        curves={
            "turn": Curve((1, 2), np.array([AWKWARD, AWKWARD]), np.ones((2, 6))),
            "distance": Curve((), np.zeros((0, 6)), np.zeros((0, 6))),  # no dialogue is that long
        },
        also={"code": {"num_bytes": np.array([2**60]), "base_content_nll": np.array([1 / 3])}},
        written=Written([response], [response, response], [shown]),
        chats=[Sample("7", turns, turns[:1], ())],
        people=[shown],
        weights_sha256="ab" * 32,
        not_encodable=["7", TEXTS[0]],
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    measured, file = make_measured(), tmp_path / "scores" / "base.json"
    write_measured(file, measured)
    found = read_measured(file)
    assert list(found.columns) == list(measured.columns)  # the order of the table's columns
    for name, column in measured.columns.items():
        assert found.columns[name].dtype == column.dtype
        assert found.columns[name].tobytes() == column.tobytes()
    assert found.also["code"]["num_bytes"].tolist() == [2**60]
    assert found.also["code"]["base_content_nll"].tolist() == [1 / 3]
    for axis, curve in measured.curves.items():
        assert found.curves[axis].points == curve.points
        for name in ("numerators", "denominators"):
            one, other = (getattr(each, name) for each in (found.curves[axis], curve))
            assert (one.shape, one.tobytes()) == (other.shape, other.tobytes())
    for part in ("figures", "written", "chats", "people", "weights_sha256"):
        assert getattr(found, part) == getattr(measured, part)
    again = tmp_path / "again.json"
    write_measured(again, found)
    assert again.read_bytes() == file.read_bytes()


def test_what_is_no_number_is_not_written(tmp_path: Path) -> None:
    measured = make_measured()
    measured.columns["base_content_nll"][0] = np.nan
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_measured(tmp_path / "base.json", measured)
    assert not any(tmp_path.iterdir())
