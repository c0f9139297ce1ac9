"""Trees of replies: Open Assistant's, and ChatGPT's export; ``data.branches`` says what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from tuning.corpus.beside import ID_KEYS
from tuning.corpus.drafts import Draft, DraftTurn
from tuning.corpus.faults import Invalid, found
from tuning.corpus.messages import Reader

_OF_THE_TREE: Final = (
    *("replies", "message_id", "parent_id", "message_tree_id", "deleted", "rank", "score"),
)
"""Keys of a node that say where in the tree it stands."""


def is_tree(entry: Any) -> bool:
    """Tell whether an object is a message with replies, or holds one as its prompt."""
    return isinstance(entry, dict) and _root(entry) is not None


def _root(entry: dict[str, Any]) -> dict[str, Any] | None:
    for node in (entry.get("prompt"), entry):
        if not isinstance(node, dict) or isinstance(node.get("messages"), list):
            continue
        if isinstance(node.get("replies"), list) and "text" in node:
            return node
    return None


def read_tree(entry: Any, reader: Reader) -> list[Draft]:
    """Read a dialogue for each leaf, or for the one that is wanted.

    A node is trained in the first of those that hold it.
    """
    root = _root(entry)
    assert root is not None
    met: dict[int, DraftTurn] = {}
    named = (entry.get("message_tree_id"), entry.get("message_id"), root.get("message_id"))
    name = next((str(one) for one in named if one), "")
    drafts = []
    paths = list(_paths(root, reader))
    if reader.branches != "all":
        every = {id(node) for path in paths for node in path}
        paths = [max(paths, key=len) if reader.branches == "longest" else paths[0]]
        _count_others(reader, "Open Assistant", len(every) - len(paths[0]))
    for number, path in enumerate(paths, start=1):
        turns = []
        for place, node in enumerate(path, start=1):
            if id(node) in met:
                turns.append(replace(met[id(node)], lines=[*met[id(node)].lines], weight=0.0))
                continue
            own = {key: value for key, value in node.items() if key not in _OF_THE_TREE}
            turn = met[id(node)] = reader.turn(own, f"node {place}", place)
            turns.append(turn)
        branch = f"/{number}" if len(paths) > 1 else ""
        drafts.append(
            Draft(turns, dialogue_id=name + branch or None, tree=name or str(root.get("text")))
        )
    if root is not entry:
        reader.leave(entry, {"prompt", "message_tree_id"})
    return drafts


def _paths(root: dict[str, Any], reader: Reader) -> Iterator[list[dict[str, Any]]]:
    """All ways from the root to a leaf, the best replies first; deleted ones are counted."""
    stack = [[root]]
    while stack:
        path = stack.pop()
        replies = _replies(path[-1], reader)
        if not replies:
            yield path
            continue
        stack += [[*path, reply] for reply in reversed(sorted(replies, key=_worth))]


def _worth(reply: Mapping[str, Any]) -> tuple[float, float]:
    """Less is better: the rank, of equal or no ranks the highest score."""
    rank, score = (
        float(value) if isinstance(value, int | float) else None
        for value in (reply.get("rank"), reply.get("score"))
    )
    return (math.inf if rank is None else rank, math.inf if score is None else -score)


def _count_others(reader: Reader, name: str, num_nodes: int) -> None:
    if num_nodes:
        reader.passed_over[f"{name}: other branches"] += num_nodes


def _replies(node: dict[str, Any], reader: Reader) -> list[dict[str, Any]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(one, dict) for one in replies):
        raise Invalid("wrong_layout", f"'replies': wanted a list of messages, {found(replies)}")
    kept = [one for one in replies if one.get("deleted") is not True]
    if len(kept) < len(replies):
        reader.passed_over["Open Assistant: deleted replies"] += len(replies) - len(kept)
    return kept


def is_mapping(entry: Any) -> bool:
    """Tell whether an object is a conversation of ChatGPT's export."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("mapping"), dict)
        and any(isinstance(node, dict) and "parent" in node for node in entry["mapping"].values())
    )


def read_mapping(entry: Any, reader: Reader) -> list[Draft]:
    """Read the branch that was shown last, from the current node up to the root, or the longest."""
    mapping = entry["mapping"]
    if reader.branches == "longest":
        parents = {node["parent"] for node in mapping.values() if _has_parent(node)}
        leaves = [name for name in mapping if name not in parents] or [None]
        path = max((_branch(mapping, leaf) for leaf in leaves), key=len)
    else:
        path = _branch(mapping, entry.get("current_node"))
    turns: list[DraftTurn] = []
    for node in reversed(path):
        message = node.get("message")
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        kind = content.get("content_type") if isinstance(content, dict) else "text"
        if kind == "multimodal_text" and isinstance(content, dict):
            message = {**message, "content": {"parts": _words_of(content, reader)}}
        elif kind not in ("text", None):
            reader.passed_over[f"ChatGPT: {kind}"[:80]] += 1
            continue
        turn = reader.turn(message, "message", len(turns))
        if turn.role == "system" and not "".join(turn.lines).strip():
            continue  # every conversation has an empty one
        turns.append(turn)
    _count_others(reader, "ChatGPT", len(mapping) - len(path))
    reader.leave(entry, {"mapping", "current_node", *ID_KEYS})
    return [Draft(turns)]


def _words_of(content: Mapping[str, Any], reader: Reader) -> list[Any]:
    """The words of a message with pictures or speech, which are counted by kind."""
    words: list[Any] = []
    for part in content.get("parts") or []:
        if not isinstance(part, dict):
            words.append(part)
        elif part.get("content_type") == "audio_transcription" and part.get("text"):
            words.append(part["text"])
        else:
            reader.passed_over[f"ChatGPT: {part.get('content_type', 'other parts')}"[:80]] += 1
    return words


def _branch(mapping: dict[str, Any], place: Any) -> list[dict[str, Any]]:
    """The nodes from one up to the root; from the last leaf where none is named."""
    if place is None:
        leaves = [name for name, node in mapping.items() if not _children(node)]
        place = leaves[-1] if leaves else None
    path: dict[str, dict[str, Any]] = {}
    while place is not None:
        node = mapping.get(place) if isinstance(place, str) and place not in path else None
        if not isinstance(node, dict):
            raise Invalid("wrong_layout", f"mapping: node {str(place)[:40]!r} leads nowhere")
        path[place] = node
        place = node.get("parent")
    return list(path.values())


def _has_parent(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("parent"), str)


def _children(node: Any) -> Any:
    return node.get("children") if isinstance(node, dict) else None
