"""The one place that fills templates: every value is escaped, a missing one is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tuning.pages.words import counted

_FRAME = Path(__file__).parent
"""The folder of ``base.html.jinja``, the frame and style of all pages."""


def render(template: Path, **values: Any) -> str:
    """Return the page that a template makes of the values.

    A template ``{% extends "base.html.jinja" %}`` and may import others of its own folder. Text
    stands in it as ``{{ text }}``; ``{{ count | number }}`` is ``1,200``, ``{{ nats |
    number(".2f") }}`` takes any format of Python's, and ``{{ count | counted("turn") }}`` is
    ``1 turn`` or ``2 turns``.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not among the values.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _FRAME]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"counted": counted, "number": _number}
    return environment.get_template(template.name).render(values)


def _number(value: float, form: str = ",") -> str:
    return format(value, form)
