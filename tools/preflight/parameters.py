"""Would the stages take these parameters, and would any of them run for a changed one?"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dvc.exceptions import InvalidArgumentError
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from hydra.errors import HydraException

from tools.preflight.finding import Finding
from tuning.run.errors import UserError
from tuning.run.params import PARAMS_FILE, Params, load_params
from tuning.run.pipeline import own_stages
from tuning.sources.base_model import origin_of
from tuning.sources.hub_data import hub_repository


def check_params(overrides: Sequence[str]) -> Iterator[Finding]:
    """Read params.yaml as each run of the sweep would find it, with the stages' reader."""
    try:
        by_file = to_path_overrides(overrides)
        sweeps = get_hydra_sweeps(by_file)
    except (InvalidArgumentError, HydraException) as error:
        cause = str(error).splitlines()[0].rstrip(".")
        yield Finding("error", f"-S: {cause}; wanted section.key=value.")
        return
    for file in by_file.keys() - {PARAMS_FILE.name}:
        yield Finding("error", f"-S: no stage reads {file}; wanted keys of {PARAMS_FILE}.")
    said: set[str] = set()
    for sweep in sweeps:
        try:
            params = _with(sweep.get(PARAMS_FILE.name, []))
            origin_of(params.model.name, params.model.revision)
            for name, one in params.data.hub.items():
                hub_repository(f"data.hub.{name}", one)
        except UserError as error:
            if str(error) not in said:
                said.add(str(error))
                yield Finding("error", str(error))
    declared = {name for stage in own_stages().values() for name in stage.get("params", [])}
    for override in by_file.get(PARAMS_FILE.name, []):
        key = override.partition("=")[0].lstrip("+~")
        if not said and not any(_overlap(key, name) for name in declared):
            yield Finding("warning", f"-S {key}: it changes no result, so no stage runs for it.")


def runs_of(overrides: Sequence[str]) -> list[Params]:
    """Return the parameters of each run of a sweep that ``check_params`` has let pass."""
    sweeps = get_hydra_sweeps(to_path_overrides(overrides))
    return [_with(sweep.get(PARAMS_FILE.name, [])) for sweep in sweeps]


def _with(overrides: Sequence[str]) -> Params:
    """Return the parameters of params.yaml with these values.

    Raises:
        UserError: the stages would refuse them, with their message.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PARAMS_FILE.name
        shutil.copyfile(PARAMS_FILE, copy)
        try:
            # Adds what is not there, at which dvc stops: the stages' reader knows what was meant.
            apply_overrides(copy, [f"++{each.lstrip('+')}" for each in overrides])
            return load_params(copy)
        except InvalidArgumentError as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"-S {' '.join(overrides)}: {cause}") from None
        except UserError as error:
            where = f"-S {' '.join(overrides)}: {PARAMS_FILE}" if overrides else str(PARAMS_FILE)
            raise UserError(str(error).replace(str(copy), where)) from None


def _overlap(key: str, name: str) -> bool:
    """Return whether one is the other, or a section that holds it."""
    return f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.")
