"""The page of parameters, made from params.yaml, its reader and dvc.yaml: ``make docs``."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin

from tuning.run import params
from tuning.run.files import flattened, write_text
from tuning.run.params import PARAMS_FILE, Params, Section, load_params
from tuning.run.pipeline import ROOT, own_stages
from tuning.run.process import run_stage

INTRO = """\
# Parameters

`params.yaml` is read strictly: an unknown key or a wrong value is an error that names it.
Its message says what was found and what is allowed, all faults at once. `make docs` makes this
page from `params.yaml`, `tuning/run/params.py` and `dvc.yaml`.

A change reruns the stages that declare the key, which the last column names, and what builds on
their results: `score` scores both models again and trains nothing, `eval` only compares and reports
again, `train` trains and scores the fine-tuned model, `encoding` or another `model` encodes again
but repeats no cleaning or splitting, `data` starts from prep. `runtime` is in no stage's list, for
it changes no result.
"""
COLUMNS = ("key", "default", "allowed", "meaning", "reruns")
NAMED = ".NAME."
"""Stands in a key for the names that users give."""
REFERENCES = {"ColumnsParams": "`data.columns`"}
KINDS = {"integer": "whole number", "number": "number", "string": "text", "null": "`null`"}
BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}


def main() -> None:
    """Print the page, or write it where it belongs."""
    parser = argparse.ArgumentParser(prog="python -m tools.parameters", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it there instead")
    target = parser.parse_args().write
    page = as_markdown()
    if target is None:
        print(page, end="")
    else:
        write_text(target, page)


def as_markdown() -> str:
    """Return the page: an introduction and a table with a row for each key of params.yaml."""
    meanings = docstrings(Path(params.__file__).read_text(encoding="utf-8"))
    values = flattened(load_params(ROOT / PARAMS_FILE).model_dump(), ".")
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for key, section, name in fields(Params):
        lines.append(
            (
                f"`{key}`",
                default(section, name) if NAMED in key else shown(values[key]),
                allowed(section.model_json_schema()["properties"][name]),
                meanings[section.__name__, name].replace("``", "`"),
                ", ".join(stages_declaring(key)) or "–",
            )
        )
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{INTRO}\n{table}"


def fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section], str]]:
    """Yield each key, however deep, with the section that holds it and its name in there."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from fields(kind, f"{prefix}{name}.")
            continue
        yield f"{prefix}{name}", section, name
        of_names = get_args(kind)[-1:] if get_origin(kind) is dict else ()
        for inner in of_names:
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from fields(inner, f"{prefix}{name}{NAMED}")


def default(section: type[Section], name: str) -> str:
    """Spell what a key has that may be left out."""
    field = section.model_fields[name]
    return "must be given" if field.is_required() else shown(field.default)


def docstrings(source: str) -> dict[tuple[str, str], str]:
    """Read the sentences that stand under the fields of classes: (class, field) -> text."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for field, below in pairwise(node.body):
                match field, below:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        found[node.name, name] = " ".join(text.split())
    return found


def shown(value: object) -> str:
    """Spell a value as YAML does."""
    return value if isinstance(value, str) else json.dumps(value)


def allowed(schema: Mapping[str, Any]) -> str:
    """Say in words what a JSON schema of one value allows."""
    if "anyOf" in schema:
        return " or ".join(map(allowed, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return "keys as of " + REFERENCES[schema["$ref"].rpartition("/")[2]]
    if "patternProperties" in schema:
        return "names, each with the keys below"
    if schema["type"] == "object":
        return f"names, each with one of {allowed(schema['additionalProperties'])}"
    if schema["type"] == "array":
        return f"list of {allowed(schema['items'])}"
    if schema["type"] == "boolean":
        return "`true`, `false`"
    bounds = [f"{sign} {schema[name]:,}" for name, sign in BOUNDS.items() if name in schema]
    return " ".join([KINDS[schema["type"]], ", ".join(bounds)]).strip()


def stages_declaring(key: str) -> list[str]:
    """Return the stages whose ``params`` in dvc.yaml name the key or a section that holds it."""
    return [
        name
        for name, stage in own_stages().items()
        if any(f"{key}.".startswith(f"{declared}.") for declared in stage.get("params", []))
    ]


if __name__ == "__main__":
    run_stage("parameters", main)
