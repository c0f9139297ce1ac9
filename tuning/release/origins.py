"""What is known of the sources of base models and dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tuning.embedded import CHITCHAT, EMBEDDED_MODEL
from tuning.run.files import sha256_of
from tuning.run.visible import as_name
from tuning.sources.hub import HUB_ID


@dataclass(frozen=True, kw_only=True)
class Source:
    """The origin and licence of weights or data, for the reader of the model card."""

    title: str
    detail: str = ""
    """Text that goes on where the title ends."""
    licence: str | None = None
    """The licence's SPDX name; None where nothing here knows it."""
    hub_ids: tuple[str, ...] = ()
    """Repositories of the hub, of models or of data sets."""
    language: str | None = None


def source_of_model(name: str, revision: str | None) -> Source:
    """The embedded model, a repository of the hub, or a folder of which only the name is known."""
    if name == EMBEDDED_MODEL:
        return Source(
            title="SmolLM2-135M-Instruct",
            detail=", from its 4-bit GGUF weights",
            licence="Apache-2.0",
            hub_ids=("HuggingFaceTB/SmolLM2-135M-Instruct",),
        )
    if revision is not None and HUB_ID.fullmatch(name):
        return Source(title=name, detail=f" at commit {revision}", hub_ids=(name,))
    return Source(title=as_name(Path(name).name))


def source_of_data(path: Path, hub: Mapping[str, Mapping[str, str]]) -> Source:
    """Return what is known of the data: the embedded corpus by its bytes, the hub's by their names.

    Args:
        path: A file, or a folder.
        hub: ``data.hub``.
    """
    if path.is_file() and sha256_of(path) == CHITCHAT.sha256:
        return Source(title="the BYU chit-chat corpus", licence="MIT", language="en")
    if not hub:
        return Source(title=as_name(path.name))
    named = {f"{one['name']} at commit {one['revision']}": one["name"] for one in hub.values()}
    title = " and ".join(named)
    # Their folders have the names in data.hub.
    is_all = hub.keys() & {*path.parts} or {file.name for file in path.iterdir()} <= hub.keys()
    return Source(
        title=title if is_all else f"files of {as_name(path.name)}, among them {title}",
        hub_ids=tuple(dict.fromkeys(named.values())),
    )
