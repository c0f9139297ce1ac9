"""Commands of the README and docs/ are taken as they stand: by their own parsers, and no further.

What is long, or needs a cluster, another program or a network, is at least spelled rightly.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli import parse_args
from ruamel.yaml import YAML

from tools.preflight.parameters import check_params
from tuning.corpus.sources import assigned, sources_of
from tuning.reading.folders import Found
from tuning.run.params import load_params
from tuning.sources.hub_data import chosen_files, hub_repository

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")


def in_blocks(page: Path) -> Iterator[list[str]]:
    """The words of each command in a page's fenced blocks, without variables before it."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in ("", "sh"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            with contextlib.suppress(ValueError):  # a line of a shown conversation, no command
                for part in split_at_and(shlex.split(line, comments=True)):
                    while part and re.match(r"\w+=", part[0]):
                        part = part[1:]
                    if part:
                        yield part


def in_text(page: Path) -> Iterator[list[str]]:
    """The same of what a page quotes between backticks, which may leave words out."""
    for quoted in INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        with contextlib.suppress(ValueError):
            yield shlex.split(quoted.replace("\n", " "), comments=True)


def split_at_and(words: list[str]) -> Iterator[list[str]]:
    """The commands that ``&&`` joins."""
    while "&&" in words:
        place = words.index("&&")
        yield words[:place]
        words = words[place + 1 :]
    yield words


WHOLE = [command for page in PAGES for command in in_blocks(page)]
QUOTED = [command for page in PAGES for command in in_text(page)]


def starting(commands: list[list[str]], *words: str) -> list[str]:
    """Those commands that start so, each once, as text."""
    found = [each for each in commands if tuple(each[: len(words)]) == words]
    return sorted({shlex.join(each) for each in found})


OURS = re.compile(r"(stages|tools|benchmarks)\.")
WHOLE_OURS = [each for each in starting(WHOLE, "python", "-m") if OURS.match(each.split()[2])]
QUOTED_OURS = [each for each in starting(QUOTED, "python", "-m") if OURS.match(each.split()[2])]
TARGETS = starting(WHOLE + QUOTED, "make")
DVC = starting(WHOLE, "dvc") + [
    each for each in starting(QUOTED, "dvc") if " -" in each and not re.search("[…|]", each)
]


class Taken(Exception):
    """The command line was parsed."""


def take(command: str, monkeypatch: pytest.MonkeyPatch, *, whole: bool) -> None:
    """Start a module's ``main``, up to where it has understood its command line."""
    _, _, name, *arguments = shlex.split(command)
    understand = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
        if not whole:
            for action in parser._actions:
                action.required = False
        understand(parser)
        raise Taken

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a package
        module = importlib.import_module(f"{name}.__main__")
    with pytest.raises(Taken):
        module.main()


@pytest.mark.parametrize("command", WHOLE_OURS)
def test_a_module_takes_its_command_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take(command, monkeypatch, whole=True)


@pytest.mark.parametrize("command", QUOTED_OURS)
def test_a_module_takes_what_is_quoted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take(command, monkeypatch, whole=False)


@pytest.mark.parametrize("command", TARGETS)
def test_make_would_run_what_its_modules_take(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    said = subprocess.run(
        [*shlex.split(command.replace("…", "x")), "--dry-run"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert "Nothing to be done" not in said.stdout
    settings = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    for line in said.stdout.replace("\\\n", " ").splitlines():
        for found in re.findall(r"\bpython -m (?:stages|tools)\..*", line):
            words = subprocess.run(
                ["sh", "-f", "-c", f"printf '%s\\0' {found}"],
                env=environment | {"ID": "x"} | settings,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            take(shlex.join(words.split("\0")[:-1]), monkeypatch, whole=True)


@pytest.mark.parametrize("command", DVC)
def test_dvc_takes_its_command_line(command: str) -> None:
    parse_args(shlex.split(command)[1:])


MIXTURES = {
    page.name: block
    for page in PAGES
    for language, block in FENCE.findall(page.read_text(encoding="utf-8"))
    if language == "yaml"
}


def with_mixture(folder: Path, block: str) -> None:
    """Write the parameters with what a page's block sets."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for section, values in YAML(typ="safe").load(block).items():
        params[section] |= values
    YAML(typ="safe").dump(params, folder / "params.yaml")


@pytest.mark.parametrize("page", MIXTURES)
def test_a_mixture_of_a_page_is_read(page: str, tmp_path: Path) -> None:
    with_mixture(tmp_path, MIXTURES[page])
    data = load_params(tmp_path / "params.yaml").data
    [repository] = [hub_repository(name, entry) for name, entry in data.hub.items()]
    names = [f"data/{split}-00000-of-00001-a3ec.parquet" for split in ("test_sft", "train_sft")]
    fetched = [f"hub/ultrachat/{name}" for name in chosen_files(names, {}, data.hub["ultrachat"])]
    assert fetched == [f"hub/ultrachat/{names[1]}"]
    files = [tmp_path / name for name in (*fetched, "mine.json")]
    taken, left = assigned(tmp_path, Found(files, []), sources_of(data))
    assert [source.name for _, source in taken] == ["ultrachat", "mine"] and not left
    assert repository.name == "HuggingFaceH4/ultrachat_200k"


def test_what_is_set_for_an_experiment_is_a_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_mixture(tmp_path, MIXTURES["sources.md"])
    monkeypatch.chdir(tmp_path)
    found = [
        command[place + 1]
        for command in WHOLE + QUOTED
        for place, word in enumerate(command[:-1])
        if word == "-S" and "…" not in command[place + 1]
    ]
    recipe = [each for each in found if each.startswith("model.")]
    assert len(recipe) == 2
    assert list(check_params(recipe)) == []
    others = [each for each in found if each not in recipe]
    assert len(others) > 2
    assert [list(check_params([each])) for each in others] == [[]] * len(others)


def test_pins_that_pages_name_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {pin for extra in project["optional-dependencies"].values() for pin in extra}
    texts = [page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "Makefile"]]
    named = {pin for text in texts for pin in re.findall(r"pip install ([\w-]+==[\w.]+)", text)}
    assert named and named <= pins


def test_ones_own_dialogues_take_the_place_of_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (edit,) = starting(WHOLE, "sed", "-i")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    subprocess.run(shlex.split(edit), cwd=tmp_path, check=True)
    before, after = (load_params(folder / "params.yaml").data for folder in (ROOT, tmp_path))
    (added,) = (each for each in WHOLE if each[1:2] == ["add"])
    assert after == before.model_copy(update={"path": added[-1], "max_dialogues": None})


def test_something_was_found_of_each_kind() -> None:
    """What matches nothing proves nothing."""
    assert min(map(len, (WHOLE_OURS, QUOTED_OURS, TARGETS, DVC))) > 4
