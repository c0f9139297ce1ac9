"""The pipeline as ``dvc.yaml`` declares it: the one reader of what a stage takes."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from tuning.run.params import load_params

ROOT = Path(__file__).parents[2]
"""The project's folder."""
CODE = ("stages", "tuning")
"""Folders in it whose files can change a result."""
CODE_SUFFIXES = (".py", ".jinja")
"""Endings of the files in them that count: modules, and the templates of pages."""
PIPELINE_FILE = "dvc.yaml"


def read_stages(text: str) -> dict[str, dict[str, Any]]:
    """Return the stages of a ``dvc.yaml`` by name; of one for several models, its ``do``.

    Raises:
        ValueError: the text is no YAML with stages.
    """
    try:
        stages = yaml.load(text, Loader=yaml.CSafeLoader)["stages"]
        return {name: stage.get("do", stage) for name, stage in stages.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no stages: {error}") from None


def own_stages() -> dict[str, dict[str, Any]]:
    """Return the stages of this project."""
    return read_stages((ROOT / PIPELINE_FILE).read_text(encoding="utf-8"))


def declared_params(stage: str) -> dict[str, Any]:
    """Return what ``dvc.yaml`` declares for a stage, as it stands in params.yaml now.

    Returns:
        The sections and keys as they are declared (``seed``, ``train``, ``encoding.max_length``),
        each with its value.
    """
    values = load_params().model_dump()
    names = own_stages()[stage].get("params", [])
    return {name: reduce(getitem, name.split("."), values) for name in names}
