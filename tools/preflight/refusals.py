"""What stages would refuse when they begin, by their own functions: some begin after hours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.prep import raise_if_unread
from tools.preflight.finding import Finding
from tools.preflight.last_run import is_fetched, is_prepared, last_values
from tuning.corpus.private_data import check_region
from tuning.corpus.sources import assigned, sources_of
from tuning.reading.pieces import data_files
from tuning.run.errors import UserError
from tuning.run.params import Params
from tuning.run.pipeline import own_stages


def check_stages(runs: Sequence[Params], base: Path | None) -> Iterator[Finding]:
    """Find what prep, encode and score would refuse of what is here already.

    Args:
        runs: The parameters of each run.
        base: The base model's folder; None leaves out what only a tokenizer can tell.
    """
    said: set[str] = set()
    for params in runs:
        for check in (_data, _private, lambda each: _template(each, base), _further_sets):
            message = _refused(check, params)
            if message and message not in said:
                said.add(message)
                yield Finding("error", message)


def _refused(check: Callable[[Params], None], params: Params) -> str:
    try:
        check(params)
    except UserError as error:
        return str(error)
    return ""


def _data(params: Params) -> None:
    path, hub = Path(params.data.path), Path(_argument("prep", "--hub"))
    raise_if_unread(path, params.data, hub)
    outs = [Path(out) for name in ("corpus", "fetch") for out in own_stages()[name]["outs"]]
    waits = not path.exists() and any(path.is_relative_to(out) for out in outs)
    dumped = params.model_dump()["data"]["hub"]
    if not waits and (not dumped or last_values(["fetch"]).get("data.hub") == dumped):
        assigned(path, data_files(path), sources_of(params.data))


def _private(params: Params) -> None:
    check_region(params.data.phone_region)


def _template(params: Params, base: Path | None) -> None:
    from tuning.tokens.templates import prepare_tokenizer

    encoding = params.encoding
    prepared = is_prepared(params)
    if base is None or not is_fetched(params.model, base):
        return
    if encoding.template == "auto" and not prepared:  # it goes by the data
        return
    has_roles = False
    if prepared:
        ledger = Path(next(iter(own_stages()["prep"]["metrics"][0])))
        has_roles = bool(json.loads(ledger.read_bytes())["num_turns_by_role"])
    with TemporaryDirectory() as folder:
        prepare_tokenizer(
            base,
            Path(folder),
            2,
            choice=encoding.template,
            settings=encoding.template_settings,
            has_roles=has_roles,
        )


def _further_sets(params: Params) -> None:
    from tuning.scoring.also_sets import read_also

    read_also(Path(_argument("score", "--also")), params.score, params.encoding.loss_on)


def _argument(stage: str, name: str) -> str:
    """Return what ``dvc.yaml`` gives a stage for one of its arguments."""
    words: list[str] = own_stages()[stage]["cmd"].split()
    return words[words.index(name) + 1]
