"""An evaluation as the report shows it: curves as rows and charts, responses side by side."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from tuning.evaluation_set.plan import Plan
from tuning.report.charts import Chart
from tuning.report.evaluation import Evaluation
from tuning.report.report_page import SideBySide
from tuning.results.bootstrap import Estimate
from tuning.results.measured import Measured
from tuning.run.visible import as_name


def curve_rows(
    axis: str, curves: Mapping[str, Mapping[int, Estimate]]
) -> tuple[list[str], list[tuple[float, ...]]]:
    """Return header and rows: a point of the axis, then value, low and high of each model."""
    header = [axis, *(f"{name}{end}" for name in curves for end in ("", "_low", "_high"))]
    rows = []
    for point in next(iter(curves.values())):
        here = (curve[point] for curve in curves.values())
        rows.append((point, *(end for one in here for end in (one.value, one.low, one.high))))
    return header, rows


def read_steps(train_log: Path) -> list[dict[str, float]]:
    """Return what training logged of each optimizer step, by column; without what it left empty."""
    with train_log.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def charts(train_log: Path, evaluation: Evaluation) -> list[Chart]:
    """Draw the report's charts: the curves that DVC plots, both models in one."""
    loss = [(step["step"], step["loss"]) for step in read_steps(train_log)]
    found = [Chart("Training loss", "optimizer step", "nats per target token", {"loss": loss})]
    for axis, title, x_label, y_label in (
        ("turn", "Bits per byte by turn", "turn of the dialogue", "bits per byte"),
        ("num_turns", "History gain", "last turns that the model sees", "bits per byte saved"),
        ("distance", "Recall of a planted fact (chance 0.1)", "turns between", "share recalled"),
    ):
        points, bands = {}, {}
        for name, curve in evaluation.curves[axis].items():
            points[name] = [(point, estimate.value) for point, estimate in curve.items()]
            bands[name] = [(point, one.low, one.high) for point, one in curve.items()]
        found.append(Chart(title, x_label, y_label, points, bands))
    lengths = {
        name: [(row[0], row[column]) for row in evaluation.by_length]
        for column, name in enumerate(evaluation.length_columns, start=1)
    }
    found.append(Chart("Lengths of responses", "at most so many words", "share", lengths))
    return found


def side_by_side(plan: Plan, measured: Mapping[str, Measured]) -> list[SideBySide]:
    """Put both models' words beside a person's, these as the fine-tuned model reads them."""
    return [
        SideBySide(
            dialogue_id=as_name(plan.dialogues[place.dialogue].dialogue_id),
            context=plan.dialogues[place.dialogue].turns[: place.turn],
            answer=plan.dialogues[place.dialogue].turns[place.turn],
            responses={
                **{name: one.written.shown[number] for name, one in measured.items()},
                "people": measured["tuned"].people[number],
            },
        )
        for number, place in enumerate(plan.shown)
    ]
