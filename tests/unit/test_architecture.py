"""The rooms and their floors, what each stage declares, and the one file that knows W&B."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tuning.run.params import Params
from tuning.run.pipeline import own_stages

ROOT = Path(__file__).parents[2]
STAGES = ("fetch", "corpus", "prep", "encode", "train", "score", "eval", "release")
PIPELINE = own_stages()
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("stages", "tools", "tuning")
    for path in (ROOT / folder).rglob("*.py")
)
FLOORS = (
    ("progress",),
    ("run", "data_names", "packing", "pages"),
    ("embedded",),
    ("dialogue", "processes", "sources", "template_record", "tracking", "windows"),
    ("language_model", "reading", "tokens"),
    ("corpus", "dealing", "encoding", "evaluation_set", "training"),
    ("results",),
    ("report", "writing"),
    ("scoring",),
    ("release",),
)
"""Of the rooms and single files of ``tuning``, from the lowest."""
MAX_LINES = 80
MAX_PARAMETERS = 10


def imported(module: str) -> set[str]:
    """Every module that a file names in an import statement."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def own_imports(module: str) -> frozenset[str]:
    """The project's files behind a module's imports, packages' ``__init__.py`` included."""
    files: set[str] = set()
    for name in (*imported(module), module.removesuffix(".py").replace("/", ".")):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            files |= {file for file in (f"{path}.py", f"{path}/__init__.py") if file in MODULES}
    return frozenset(files)


def all_imports(module: str) -> set[str]:
    """The module and everything of ours that it loads, directly or not."""
    found: set[str] = set()
    todo = {module}
    while todo:
        found |= todo
        todo = set().union(*map(own_imports, todo)) - found
    return found


def room(module: str) -> str:
    """The folder or single file of ``tuning``, or the top folder."""
    top, name, *_ = module.split("/")
    return name.removesuffix(".py") if top == "tuning" else top


def floor(module: str) -> int:
    place = room(module)
    if place == "__init__":
        return -1
    return next(
        (number for number, names in enumerate(FLOORS) if place in names),
        len(FLOORS) + (module.split("/")[0] == "tools"),
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_files_that_a_stage_lists_are_the_modules_that_it_loads(stage: str) -> None:
    """By whole rooms; release lists all code, for the receipt is over all of it."""
    code = [dep for dep in PIPELINE[stage]["deps"] if dep.split("/")[0] in ("stages", "tuning")]
    listed = [
        module
        for dep in code
        for module in MODULES
        if module == dep or module.startswith(f"{dep}/")
    ]
    assert [module for module, count in Counter(listed).items() if count > 1] == []
    if stage == "release":
        assert code == ["stages", "tuning"]
        assert all_imports("stages/release.py") <= set(listed)
    else:
        assert set(listed) == all_imports(f"stages/{stage}.py")
        rooms = {dep for dep in code if (ROOT / dep).is_dir()}
        assert not [dep for dep in code if any(dep.startswith(f"{one}/") for one in rooms)]
        assert not [dep for dep in code if len(dep.split("/")) > 2]


def test_what_python_compiles_is_no_dependency() -> None:
    assert "__pycache__" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()


def test_the_pipeline_is_short() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 360


def test_every_module_of_a_room_serves_a_stage() -> None:
    used = set().union(*(all_imports(f"stages/{stage}.py") for stage in STAGES))
    assert {module for module in MODULES if not module.startswith("tools/")} - used == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    for other in own_imports(module):
        same_room = room(other) == room(module)
        assert same_room or floor(other) < floor(module), other


@pytest.mark.parametrize("name", ["corpus", "reading", "run", "sources"])
def test_rooms_before_the_model_need_no_tensors(name: str) -> None:
    """At their beginning; what fetch asks transformers for, it imports there."""
    for module in MODULES:
        if module.startswith(f"tuning/{name}/"):
            tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
            tree.body = [
                node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            packages = {
                alias.name.split(".")[0]
                for node in tree.body
                if isinstance(node, ast.Import)
                for alias in node.names
            } | {
                str(node.module).split(".")[0]
                for node in tree.body
                if isinstance(node, ast.ImportFrom)
            }
            assert not packages & {"torch", "transformers"}, module


def test_only_one_module_knows_wandb() -> None:
    users = [name for name in MODULES if any(n.split(".")[0] == "wandb" for n in imported(name))]
    assert users == ["tuning/tracking.py"]


def test_only_the_tokens_know_the_templates() -> None:
    """Others ask a model's folder, and get a ``Template``."""
    templates = {"tuning.tokens.speaker_tokens", "tuning.tokens.plain_lines"}
    users = {room(name) for name in MODULES if templates & imported(name)}
    assert users == {"tokens"}


def test_a_way_to_write_or_a_template_is_nothing_that_training_loads() -> None:
    """So a change of either retrains nothing, unless it changes what encode writes."""
    rooms = {room(module) for module in all_imports("stages/train.py")}
    assert not rooms & {"encoding", "tokens", "writing", "scoring", "report"}


def test_functions_are_short_and_take_few_parameters() -> None:
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                where = f"{module}: {node.name}"
                assert node.end_lineno - node.lineno < MAX_LINES, where
                names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                own = [name.arg for name in names if name.arg not in ("self", "cls", "ctx")]
                assert len(own) <= MAX_PARAMETERS, where


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
        assert set(re.findall(rf"\bparams\.{section}\.(\w+)", source)) == declared_keys


def test_the_receipt_declares_every_parameter_that_can_change_a_result() -> None:
    assert set(PIPELINE["release"]["params"]) == set(Params.model_fields) - {"runtime"}


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
