"""``data.columns``: a user's own names of a record's parts, as JMESPath expressions."""

from __future__ import annotations

from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError

from tuning.corpus.beside import ID_KEYS, with_beside
from tuning.corpus.drafts import Draft
from tuning.corpus.faults import Invalid, checked, found
from tuning.corpus.flags import weigh
from tuning.corpus.layouts import list_of
from tuning.corpus.marked import marked_turns
from tuning.corpus.message_keys import TEXT_KEYS, WHO_KEYS, spelled
from tuning.corpus.message_shapes import as_rows, is_spoken
from tuning.corpus.messages import Reader
from tuning.run.errors import UserError
from tuning.run.params import ColumnsParams

_FIELDS: Final = {
    "text": ("text", {*TEXT_KEYS}),
    "who": ("speaker", {*WHO_KEYS} - {"role"}),
    "role": ("role", {"role"}),
}
"""Of each part of a message: the name that it gets, and the names that then say nothing."""


class _Functions(jmespath.functions.Functions):  # type: ignore[misc]
    """What expressions may call besides JMESPath's own functions."""

    @jmespath.functions.signature({"types": ["string"]}, {"types": ["string"]})  # type: ignore[untyped-decorator]
    def _func_before(self, text: str, mark: str) -> str:
        """``before(id, '_')`` is ``abc`` of ``abc_57``."""
        return text.rpartition(mark)[0] or text


_OPTIONS: Final = jmespath.Options(custom_functions=_Functions())


class Columns:
    """Where a record has its list, its speakers and its texts."""

    def __init__(self, columns: ColumnsParams) -> None:
        """Take the expressions.

        Raises:
            UserError: one of them is none.
        """
        self._paths = {
            name: compiled(path, f"data.columns.{name}")
            for name, path in columns.model_dump().items()
            if path is not None
        }
        self.used = frozenset[str]().union(
            *(fields_of(path) for name, path in self._paths.items() if name in ("list", "id"))
        )
        """The record's keys that they name."""
        self._of_id = fields_of(self._paths["id"]) if "id" in self._paths else frozenset()

    def read(self, entry: Any, reader: Reader) -> list[Draft] | None:
        """Read a record by the mapping; None where it says nothing of messages.

        Raises:
            Invalid: there is no list where it should be, or something in it is no message.
        """
        if not self._paths.keys() - {"id"}:
            return None
        key = None
        if "list" in self._paths:
            items = search(self._paths["list"], entry, "data.columns.list")
        else:
            key, items = list_of(entry)
        if items is False:
            reader.passed_over["records of which data.columns.list is false"] += 1
            return []
        if isinstance(items, str):
            turns = marked_turns(checked(items, "data.columns.list"), reader)
        elif isinstance(items, list | dict) and items:
            rows = as_rows(items, "data.columns.list")
            named = self._of_id if items is entry else frozenset()
            turns = reader.turns([self._mapped(row, reader, named) for row in rows], "turn")
        else:
            raise Invalid("wrong_layout", f"data.columns.list: wanted a list, {found(items)}")
        draft = Draft(turns)
        weigh(draft.turns, entry, "the record")
        if isinstance(entry, dict):
            with_beside(entry, reader, draft, {key, *ID_KEYS, *self.used})
        return [draft]

    def is_row(self, entry: Any) -> bool:
        """Tell whether a value is a message by itself, of which the mapping says who or what."""
        parts = [name for name in ("who", "text") if name in self._paths]
        if not parts or "list" in self._paths or not isinstance(entry, dict):
            return False
        if list_of(entry)[0] is not None:
            return False
        held = (search(self._paths[part], entry, f"data.columns.{part}") for part in parts)
        return all(isinstance(value, str | int) for value in held) and is_spoken(
            self._mapped(entry, Reader({}))
        )

    def _mapped(self, item: Any, reader: Reader, named: frozenset[str] = frozenset()) -> Any:
        """A message with its fields under their usual names, without those that are named."""
        if not isinstance(item, dict):
            return item
        mapped: dict[str, Any] = {}
        replaced: set[str] = set()
        used: set[str] = set()
        for part, (name, others) in _FIELDS.items():
            if part in self._paths:
                mapped[name] = search(self._paths[part], item, f"data.columns.{part}")
                replaced |= {key for key in item if spelled(key) in others}
                used |= fields_of(self._paths[part])
        reader.leave({key: item[key] for key in replaced}, used, "message.")
        kept = {key: value for key, value in item.items() if key not in replaced | used | named}
        return kept | mapped

    def id_of(self, entry: Any) -> str | None:
        """The dialogue's id by the mapping.

        Raises:
            Invalid: it is neither text nor a number.
        """
        if "id" not in self._paths or not isinstance(entry, dict):
            return None
        value = search(self._paths["id"], entry, "data.columns.id")
        if value is None:
            return None
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise Invalid("wrong_layout", f"data.columns.id: wanted text, {found(value)}")
        return checked(str(value), "data.columns.id")


def compiled(path: str, key: str) -> Any:
    """Return the expression under a key of params.yaml.

    Raises:
        UserError: it is none.
    """
    try:
        return jmespath.compile(path)
    except JMESPathError as error:
        cause = str(error).splitlines()[0].rstrip(": ")
        raise UserError(f"{key}: {path!r} is no JMESPath expression: {cause}.") from None


def search(path: Any, entry: Any, key: str) -> Any:
    """Return what an expression finds.

    Raises:
        Invalid: it cannot be asked of this value.
    """
    try:
        return path.search(entry, _OPTIONS)
    except JMESPathError as error:
        raise Invalid("wrong_layout", f"{key}: {str(error).splitlines()[0][:200]}") from None


def fields_of(path: Any) -> frozenset[str]:
    """Return the names of fields that an expression asks for."""
    names, nodes = set(), [path.parsed]
    while nodes:
        node = nodes.pop()
        if node["type"] == "field":
            names.add(node["value"])
        nodes += [child for child in node["children"] if isinstance(child, dict)]
    return frozenset(names)
