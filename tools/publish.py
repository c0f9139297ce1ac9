"""A released model on a model hub, private unless said: ``python -m tools.publish OWNER/NAME``.

The folder goes as it is, in one commit, and only if its receipt holds. The token is that of
huggingface_hub (HF_TOKEN), and the hub the one of HF_ENDPOINT, if that is set.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from gguf import GGUFReader
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils._validators import validate_repo_id
from huggingface_hub.utils.tqdm import disable_progress_bars

from tools.export_gguf import WEIGHTS_KEY
from tuning.release.model_card import SHOWS_A_DIALOGUE
from tuning.release.receipt import RECEIPT, differences
from tuning.run.errors import UserError, first_line
from tuning.run.files import weights_sha256
from tuning.run.pipeline import declared_params, own_stages
from tuning.run.process import run_stage
from tuning.run.visible import visible
from tuning.sources.hub import HUB_ID

CARD = "README.md"
OURS = ("*.safetensors", "*.safetensors.index.json", "*.gguf", "*.Modelfile")
"""What of an earlier publication goes where it is not published again."""


def main() -> None:
    """Check everything that can be checked here, say what goes where, and send it."""
    args = parse_arguments()
    check_name(args.repo)
    found = differences(args.model, declared_params("release"))
    if found:
        raise UserError(
            "\n".join(found) + f"\n{args.model} is not what its receipt says, and was not sent. "
            "Release again with dvc repro, or get what was released with dvc checkout."
        )
    files = {file.relative_to(args.model).as_posix(): file for file in below(args.model)}
    if args.gguf is not None:
        files |= files_of_gguf(args.gguf, args.model)
    kind = "public" if args.public else "private"
    print("\n".join(f"publish: {line}" for line in described(files)))
    if args.dry_run:
        print(f"publish: nothing was sent; without --dry-run, it goes to {args.repo}, {kind}.")
        return
    if get_token() is None:
        raise UserError(
            "there is no token for the hub. Set HF_TOKEN to one that may write, or log in with "
            "hf auth login."
        )
    print(f"publish: {visible(send(args.repo, files, public=args.public))}, {kind}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__)
    parser.add_argument("repo", help="OWNER/NAME on the hub; made if it is not there")
    released = Path(own_stages()["release"]["outs"][-1])
    parser.add_argument("--model", type=Path, default=released, help="the released folder")
    parser.add_argument("--gguf", type=Path, help="its export, sent with its Modelfile")
    parser.add_argument("--public", action="store_true", help="let everybody read it")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and end")
    return parser.parse_args()


def check_name(repo: str) -> None:
    """Raise ``UserError`` if a hub would not take the name of a repository."""
    try:
        validate_repo_id(repo)
        fits = HUB_ID.fullmatch(repo) is not None
    except HFValidationError:
        fits = False
    if not fits:
        raise UserError(
            f"found {repo!r} as the repository; wanted OWNER/NAME, as in ann/small-talk: letters, "
            "digits, single - _ and . between them, 96 characters at most."
        )


def below(folder: Path) -> list[Path]:
    """Return all files of a folder, in order."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def files_of_gguf(file: Path, model: Path) -> dict[str, Path]:
    """Return a model's export and its Modelfile, by name.

    Raises:
        UserError: the export is not there, or is another model's.
    """
    if not file.is_file():
        raise UserError(f"{file} is not there: make it with python -m tools.export_gguf.")
    try:
        field = GGUFReader(file).get_field(WEIGHTS_KEY)
    except ValueError:  # it begins as no GGUF file does
        field = None
    if field is None or field.contents() != weights_sha256(model):
        raise UserError(
            f"{file} is no export of {model} as it is now: make it again with python -m "
            f"tools.export_gguf {model} {file}."
        )
    modelfile = file.with_suffix(".Modelfile")
    found = [file, modelfile] if modelfile.is_file() else [file]
    return {each.name: each for each in found}


def described(files: Mapping[str, Path]) -> list[str]:
    """Say what is sent, and what in it is of the data."""
    sizes = {name: file.stat().st_size for name, file in files.items()}
    width = max(map(len, sizes))
    lines = [f"{visible(name):{width}} {size:>14,} bytes" for name, size in sizes.items()]
    lines.append(f"{len(files)} files, {sum(sizes.values()):,} bytes")
    if SHOWS_A_DIALOGUE in files[CARD].read_text(encoding="utf-8"):
        lines.append(f"{CARD} shows a validation dialogue of your data, and the model's answer")
    return [*lines, f"{RECEIPT} names the files of your data"]


def send(repo: str, files: Mapping[str, Path], *, public: bool) -> str:
    """Make the repository where it is not there, and its next commit; return the commit's address.

    Raises:
        UserError: the hub refuses, cannot be reached, or shows to all what is to be private.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what is wrong is in the error
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        is_private = api.repo_info(repo).private
        if is_private or public:
            earlier = api.list_repo_files(repo)
            added = [CommitOperationAdd(name, file) for name, file in files.items()]
            gone = [
                CommitOperationDelete(name)
                for name in earlier
                if name not in files and any(fnmatch(name, pattern) for pattern in OURS)
            ]
            message = "Fine-tuned model, its card and its receipt"
            return api.create_commit(repo, [*added, *gone], commit_message=message).commit_url
    except Exception as error:  # huggingface_hub, httpx, hf_xet (RuntimeError) share no base
        raise UserError(f"{repo}: {_what_happened(error)}") from None
    raise UserError(
        f"{repo} is there already, and public: nothing was sent. Make it private on its page, name "
        "another, or send it with --public."
    )


def _what_happened(error: Exception) -> str:
    """A failure at the hub in words that say what to do."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return "the hub does not know the token. Set HF_TOKEN to a valid one that may write."
    if status == 403:
        return (
            "the token may not write there. Make one that may, and check that the owner is your "
            "account or an organization of yours."
        )
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set. Unset it."
    return (
        f"the upload failed ({type(error).__name__}: {first_line(error)}). No file of it is in the "
        "repository, for a commit has all or none. Check the network (and HF_ENDPOINT, if set) and "
        "run again."
    )


if __name__ == "__main__":
    run_stage("publish", main)
