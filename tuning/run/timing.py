"""metrics/timing.json: the figures that may differ between two equal runs, a section per stage.

DVC compares it (it is listed under the top-level ``metrics``) but does not hash it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.run.files import write_json


def read_timing(path: Path) -> dict[str, dict[str, Any]]:
    """Read all sections; none of a file that is not there yet, or that git could not merge."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # figures of earlier runs are worth no run of now
        return {}
    sections = content.items() if isinstance(content, dict) else ()
    return {name: figures for name, figures in sections if isinstance(figures, dict)}


def record_timing(path: Path, stage: str, figures: Mapping[str, Any]) -> None:
    """Replace one stage's section and leave the others as they are."""
    write_json(path, read_timing(path) | {stage: dict(figures)})
