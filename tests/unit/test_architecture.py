"""The floors, each stage's declared code and parameters, and the one file that knows W&B."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tuning.run.params import Params, ScoringParams

ROOT = Path(__file__).parents[2]
STAGES = ("fetch", "prep", "encode", "train", "score", "eval", "release")
SCRIPTS = (*STAGES, "preview", "compare", "verify", "repair", "preflight", "export_gguf", "chat")
PIPELINE: dict[str, dict[str, Any]] = {
    name: stage.get("do", stage)
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()
}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "stages").rglob("*.py"))


def imported(module: str) -> set[str]:
    """Every module that a file names in an import statement."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_files(names: set[str]) -> set[str]:
    """The project's files behind imported names, packages' ``__init__.py`` included."""
    files: set[str] = set()
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            files |= {file for file in (f"{path}.py", f"{path}/__init__.py") if file in MODULES}
    return files


def all_imports(module: str) -> set[str]:
    """The module and everything of ours that it loads, directly or not."""
    found: set[str] = set()
    todo = {module}
    while todo:
        found |= todo
        todo = set().union(*(own_files(imported(name)) for name in todo)) - found
    return found


def floor(module: str) -> int:
    room = module.split("/")[1]
    if module.startswith("stages/") and room.removesuffix(".py") in SCRIPTS:
        return 4
    return {"training": 3, "evaluation": 3, "encoding": 2, "corpus": 1}.get(room, 0)


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_depends_on_exactly_the_modules_that_it_loads(stage: str) -> None:
    declared = {dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")}
    assert declared == all_imports(f"stages/{stage}.py")


def test_the_receipt_is_over_all_of_the_code() -> None:
    assert "stages" in PIPELINE["release"]["deps"]
    assert "__pycache__" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()


def test_every_module_belongs_to_a_stage_or_shows_results() -> None:
    used = set().union(*(all_imports(f"stages/{stage}.py") for stage in STAGES))
    assert set(MODULES) - used == {
        "tools/chat.py",
        "tools/compare/__main__.py",
        "tools/preview_text.py",
        "tools/compare/comparison.py",
        "tools/compare/page.py",
        "tools/compare/text.py",
        "tools/summary.py",
        "tools/compare/revisions.py",
        "tools/export_gguf.py",
        "tools/preflight.py",
        "tools/show.py",
        "tools/repair.py",
        "tools/verify.py",
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    room = module.split("/")[1]
    for other in own_files(imported(module)) - {"stages/__init__.py"}:
        same_room = other.split("/")[1] == room
        assert floor(other) < floor(module) or same_room or floor(other) == floor(module) == 0


@pytest.mark.parametrize("module", [name for name in MODULES if "/corpus/" in name])
def test_the_corpus_room_needs_no_tensors(module: str) -> None:
    packages = {name.split(".")[0] for name in imported(module)}
    assert not packages & {"torch", "transformers"}


def test_only_one_module_knows_wandb() -> None:
    users = [name for name in MODULES if any(n.split(".")[0] == "wandb" for n in imported(name))]
    assert users == ["tuning/tracking.py"]


def test_the_receipt_declares_every_parameter_that_can_change_a_result() -> None:
    assert set(PIPELINE["release"]["params"]) == set(Params.model_fields) - {"runtime"}


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_declares_exactly_the_parameters_that_it_reads(stage: str) -> None:
    """Read as ``params.section`` or ``params.section.key`` (or ``params.seed``) in its script."""
    source = (ROOT / f"stages/{stage}.py").read_text(encoding="utf-8")
    declared = {name.split(".")[0] for name in PIPELINE[stage]["params"]}
    sections = "|".join(Params.model_fields)
    read = set(re.findall(rf"params(?:\(\))?\.({sections})\b", source)) - {"runtime"}
    assert read == declared
    keys: dict[str, set[str]] = {}
    for name in PIPELINE[stage]["params"]:
        section, _, key = name.partition(".")
        if key:  # no other key of the section may be read
            keys.setdefault(section, set()).add(key)
    for section, declared_keys in keys.items():
        if (stage, section) == ("score", "eval"):  # its code is given these alone, typed
            assert declared_keys == set(ScoringParams.model_fields)
        else:
            assert set(re.findall(rf"\bparams\.{section}\.(\w+)", source)) == declared_keys


def test_no_other_file_holds_a_path_of_the_data_flow() -> None:
    paths = [
        path if isinstance(path, str) else next(iter(path))
        for stage in PIPELINE.values()
        for kind in ("outs", "metrics", "plots")
        for path in stage.get(kind, [])
    ]
    for module in MODULES:
        source = (ROOT / module).read_text(encoding="utf-8")
        assert not [path for path in paths if f'"{path}' in source]
