"""Trees of replies: Open Assistant's, and ChatGPT's export by its current branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuning.corpus.faults import Invalid
from tuning.corpus.messages import Draft, DraftTurn, Reader


def is_tree(entry: Any) -> bool:
    """Tell whether an object is a message with replies, or holds one as its prompt."""
    return isinstance(entry, dict) and _root(entry) is not None


def _root(entry: dict[str, Any]) -> dict[str, Any] | None:
    for node in (entry.get("prompt"), entry):
        if isinstance(node, dict) and isinstance(node.get("replies"), list) and "text" in node:
            return node
    return None


def read_tree(entry: Any, reader: Reader) -> list[Draft]:
    """Read a dialogue for each leaf; a node is trained in the first of those that hold it."""
    root = _root(entry)
    assert root is not None
    trained: set[int] = set()
    name = str(entry.get("message_tree_id") or entry.get("message_id") or root.get("text"))
    drafts = []
    for number, path in enumerate(_paths(root), start=1):
        turns = []
        for place, node in enumerate(path, start=1):
            own = {k: v for k, v in node.items() if k in ("text", "role", "lang", "rank")}
            turn = reader.turn(
                {k: own[k] for k in ("text", "role") if k in own}, f"node {place}", place
            )
            if id(node) in trained:
                turn.weight = 0.0
            turns.append(turn)
        trained.update(id(node) for node in path)
        drafts.append(Draft(turns, dialogue_id=f"{name}/{number}", tree=name))
    if len(drafts) == 1:
        drafts[0].dialogue_id = name
    return drafts


def _paths(root: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """All ways from the root to a leaf, the best-ranked replies first."""
    stack = [[root]]
    while stack:
        path = stack.pop()
        replies = [one for one in path[-1].get("replies") or [] if isinstance(one, dict)]
        if not replies:
            yield path
            continue
        ranked = sorted(
            replies, key=lambda one: one["rank"] if isinstance(one.get("rank"), int) else 0
        )
        stack += [[*path, reply] for reply in reversed(ranked)]


def is_mapping(entry: Any) -> bool:
    """Tell whether an object is a conversation of ChatGPT's export."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("mapping"), dict)
        and any(isinstance(node, dict) and "parent" in node for node in entry["mapping"].values())
    )


def read_mapping(entry: Any, reader: Reader) -> list[Draft]:
    """Read the branch that was shown last: from the current node up to the root."""
    mapping, path, seen = entry["mapping"], [], set()
    place = entry.get("current_node") or _last_leaf(mapping)
    while place is not None:
        if place in seen or place not in mapping:
            raise Invalid("wrong_layout", f"mapping: node {str(place)[:40]!r} leads nowhere")
        seen.add(place)
        path.append(mapping[place])
        place = mapping[place].get("parent")
    turns: list[DraftTurn] = []
    for node in reversed(path):
        message = node.get("message")
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        kind = content.get("content_type") if isinstance(content, dict) else "text"
        if kind not in ("text", None):
            reader.passed_over[f"ChatGPT: {kind}"] += 1
            continue
        own = {key: message[key] for key in ("author", "content") if key in message}
        turn = reader.turn(own, "message", len(turns))
        if turn.role == "system" and not "".join(turn.lines).strip():
            continue  # every conversation has an empty one
        turns.append(turn)
    if len(mapping) > len(path):
        reader.passed_over["ChatGPT: other branches"] += len(mapping) - len(path)
    reader.leave(
        entry, ("mapping", "current_node", "conversation_id", "id", "title", "create_time")
    )
    return [Draft(turns)]


def _last_leaf(mapping: dict[str, Any]) -> str | None:
    leaves = [name for name, node in mapping.items() if not node.get("children")]
    return leaves[-1] if leaves else None
