"""Templates escape every value, miss none, and count as the code that they are."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import TemplateAssertionError, UndefinedError

from tuning.encoding.preview_page import as_html
from tuning.pages.environment import render
from tuning.pages.words import counted
from tuning.release.receipt import code_hashes
from tuning.run.inputs import Inputs
from tuning.run.pipeline import CODE, ROOT

EVIL = "</title></style><script>alert(1)</script>\" onload='x' & {{ 7 * 7 }} {% raw %}"
TEMPLATES = sorted(
    path for folder in ("tools", "tuning") for path in (ROOT / folder).rglob("*.jinja")
)


class Reader(HTMLParser):
    """Keeps elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def template(folder: Path, body: str, title: str = "a page") -> Path:
    path = folder / "page.html.jinja"
    blocks = f"{{% block title %}}{title}{{% endblock %}}{{% block body %}}{body}{{% endblock %}}"
    path.write_text(f'{{% extends "base.html.jinja" %}}{blocks}', encoding="utf-8")
    return path


def test_text_stays_text_in_elements_attributes_and_the_title(tmp_path: Path) -> None:
    macros = "{% macro shown(text) %}<b>{{ text }}</b>{% endmacro %}"
    (tmp_path / "macros.html.jinja").write_text(macros, encoding="utf-8")
    body = (
        '{% from "macros.html.jinja" import shown %}<p title="{{ text }}">{{ text }}</p>'
        '{{ shown(text) }}<i>{{ [text, "b"] | join(" and ") }}</i>'
    )
    read = Reader(render(template(tmp_path, body, "{{ text }}"), text=EVIL))
    tags = [tag for tag, _ in read.elements]
    assert tags == ["html", "head", "meta", "meta", "title", "style", "body", "p", "b", "i"]
    assert dict(read.elements)["p"] == {"title": EVIL}
    assert read.texts.count(EVIL) == 3 and f"{EVIL} and b" in read.texts


@pytest.mark.parametrize(
    "body", ["{{ missing }}", "{{ row.missing }}", "{% if missing %}{% endif %}", "{{ row['x'] }}"]
)
def test_a_missing_value_is_an_error(tmp_path: Path, body: str) -> None:
    with pytest.raises(UndefinedError, match="missing|'x'"):
        render(template(tmp_path, body), row={"here": 1})


def test_a_filter_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TemplateAssertionError, match="nosuch"):
        render(template(tmp_path, "{{ 1 | nosuch }}"))


def test_numbers_are_written_as_people_read_them(tmp_path: Path) -> None:
    body = '{{ 1234 | number }}; {{ 0.125 | number(".2f") }}; {{ 1 | counted("turn") }}'
    assert "<body>\n1,234; 0.12; 1 turn</body>" in render(template(tmp_path, body))
    assert [counted(number, "turn") for number in (0, 1, 1200)] == [
        "0 turns",
        "1 turn",
        "1,200 turns",
    ]


def test_templates_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = as_html([], {"tokens": {"trained": 1}})
    monkeypatch.chdir(tmp_path)
    assert as_html([], {"tokens": {"trained": 1}}) == here


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.name))
def test_no_template_lets_text_through_unescaped(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "safe" not in source and "autoescape" not in source


def test_a_fingerprint_is_of_the_templates_beside_loaded_modules() -> None:
    loaded = [path for path in TEMPLATES if path.is_relative_to(ROOT / "tuning")]
    assert {path.parent.name for path in loaded} == {"encoding", "pages", "report"}
    without = Inputs([], dict).fingerprint
    assert (
        Inputs([path for path in loaded if path.parent.name != "report"], dict).fingerprint
        == without
    )
    assert Inputs([ROOT / "params.yaml"], dict).fingerprint != without


def test_a_receipt_is_of_every_file_that_is_not_compiled() -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in CODE
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert code_hashes().keys() == files
    assert "tuning/pages/base.html.jinja" in files
