"""Repositories of the Hugging Face hub: the files of one commit, never code that stands there."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from tuning.progress import growing
from tuning.run.errors import UserError, first_line
from tuning.run.files import DiskFullError, disk_errors, sha256_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
HOW_TO_GET_A_REVISION = (
    "Its page on the hub lists the commits under Files and versions > History; "
    "copy all 40 digits of one."
)


@dataclass(frozen=True)
class Announced:
    """What the hub says of a file."""

    num_bytes: int
    sha256: str | None
    """None for a file of git's own."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model or a data set at a commit."""

    kind: Literal["model", "dataset"]
    name: str
    """Owner and name, with a slash between."""
    revision: str
    """40 hex digits."""
    key: str
    """The parameters that name it, such as ``model``."""
    instead: str
    """What to do where the hub cannot be reached."""

    @property
    def title(self) -> str:
        """What messages call it."""
        kind = {"model": "model", "dataset": "data set"}[self.kind]
        return f"{kind} {self.name} at revision {self.revision}"

    @cached_property
    def files(self) -> Mapping[str, Announced]:
        """What the hub announces of all files, by their names.

        Raises:
            UserError: the repository, the commit or the network is not there, or access is
                restricted.
        """
        with self._errors():
            api = HfApi()
            ask = api.model_info if self.kind == "model" else api.dataset_info
            # Asked once: snapshot_download by itself keeps trying a dead endpoint for half a minute
            info = ask(self.name, revision=self.revision, files_metadata=True, timeout=10)
            return {
                file.rfilename: Announced(file.size or 0, file.lfs.sha256 if file.lfs else None)
                for file in info.siblings or []
            }

    def download(self, patterns: Sequence[str], folder: Path) -> None:
        """Download the files that fit any pattern, in which ``*`` stands for slashes too.

        Raises:
            UserError: as for ``files``, or a file's SHA-256 is not the one that is announced.
        """
        announced = self.files
        num_bytes = sum(
            file.num_bytes
            for name, file in announced.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        )
        shown = growing(f"fetch: {self.name}", folder, num_bytes)
        with self._errors(), disk_errors(folder), shown:
            snapshot_download(
                self.name,
                repo_type=self.kind,
                revision=self.revision,
                local_dir=folder,
                allow_patterns=list(patterns),
            )
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        for name, file in announced.items():
            path = folder / name
            if file.sha256 and path.is_file() and sha256_of(path) != file.sha256:
                raise UserError(
                    f"{self.title}: {name} arrived damaged; its SHA-256 is not {file.sha256}. Run "
                    f"again; if it stays so, delete this {self.kind} from the Hugging Face cache."
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise as ``UserError`` what fails at the hub."""
        # What its retries warn of is in the error at the end.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        disable_progress_bars()
        try:
            yield
        except DiskFullError:
            raise
        except Exception as error:  # huggingface_hub, httpx, hf_xet (RuntimeError) share no base
            raise UserError(f"{self.title}: {self._what_happened(error)}") from None

    def _what_happened(self, error: Exception) -> str:
        """A failure at the hub in words that say what to do."""
        if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # "not in the local cache" says nothing of the hub
        if isinstance(error, RevisionNotFoundError):
            return f"the repository has no such commit. {HOW_TO_GET_A_REVISION}"
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, GatedRepoError) or status == 403:
            return (
                "access is restricted (gated). Accept the terms on its page, then set HF_TOKEN "
                "to a token of the account that did."
            )
        # 401 is how the hub answers the anonymous, and a bad token, for what may or may not exist.
        if isinstance(error, RepositoryNotFoundError) or status == 401:
            return (
                f"there is no such repository, or it is private. Check {self.key}.name; for a "
                "private one set HF_TOKEN to a valid token that may read it."
            )
        if isinstance(error, OfflineModeIsEnabled):
            return f"HF_HUB_OFFLINE is set. Unset it, or {self.instead}."
        return (
            f"the download failed ({type(error).__name__}: {first_line(error)}). Check the network "
            f"(and HF_ENDPOINT, if set) and run again, or {self.instead}."
        )


def checked_commit(revision: str | None, name: str, key: str, otherwise: str = "") -> str:
    """The revision of a repository, which must be a commit: a branch moves, and the run with it.

    Raises:
        UserError: it is none; ``otherwise`` is what the message ends with.
    """
    if revision is None or not COMMIT.fullmatch(revision):
        raise UserError(
            f"{key}.revision: found {revision!r} for {name} of the hub; wanted a commit (40 "
            f"digits 0-9 a-f), because a branch moves. {HOW_TO_GET_A_REVISION}{otherwise}"
        )
    return revision
