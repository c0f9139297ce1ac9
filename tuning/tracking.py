"""One Weights & Biases run per trained model; the only module that imports wandb."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import wandb

from tuning.run.errors import UserError
from tuning.run.files import flattened, write_text

DEFAULT_PROJECT = "dialogue-tuning"
UPLOAD_SECONDS = 60.0
"""The most seconds that an online run goes on uploading after its stage has finished."""
CONNECT_SECONDS = 10.0
"""The most seconds that an unreachable server holds up the start of a stage."""

Mode = Literal["online", "offline", "disabled"]


class Run:
    """A started run. No method raises because of wandb: tracking must never stop a training."""

    def __init__(self, run: wandb.Run, place: Path) -> None:
        """Wrap wandb's run, whose files are at ``place``; ``start_run`` is the way to get one."""
        self.run_id: str = run.id
        """The id that, given to a later ``start_run``, continues this run."""
        self._run = run
        self._place = place
        self._broken = False

    def log(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Add a row to the run's history; ``step`` is an optimizer step and must not fall."""
        self._try(lambda: self._run.log(dict(metrics), step=step))

    def summarise(self, metrics: Mapping[str, Any]) -> None:
        """Set the run's final figures: ``{"base": {"loss": 2.0}}`` becomes ``base/loss``."""
        self._try(lambda: self._run.summary.update(flattened(metrics, "/")))

    def log_samples(
        self,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str | int | float]],
        *,
        step: int | None = None,
    ) -> None:
        """Add a table, such as generated dialogues, to the run's history."""
        data = [list(row) for row in rows]
        self._try(
            lambda: self._run.log({name: wandb.Table(columns=list(columns), data=data)}, step=step)
        )

    def finish(self, exit_code: int = 0) -> None:
        """Write out what is left and end wandb's process; a second call does nothing."""
        self._try(lambda: self._run.finish(exit_code=exit_code))
        # Left to its atexit hook, wandb would do this while the interpreter goes down, where it
        # could hold up the exit or change its code.
        self._try(wandb.teardown)

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the run, as failed if an exception ended the block.

        Ctrl-C leaves it as a kill does: wandb, too, may have been interrupted, and would wait for
        itself for a minute.
        """
        if kind is not KeyboardInterrupt:
            self.finish(exit_code=0 if kind is None else 1)

    def _try(self, call: Callable[[], object]) -> None:
        """Do one thing with wandb; say its first failure and go on.

        ``OSError`` is a full disk, a lost connection or (as ``TimeoutError``) an unfinished
        upload; ``RuntimeError`` and ``SystemExit`` are how a dead wandb process shows.
        """
        try:
            call()
        except (wandb.Error, OSError, RuntimeError, ValueError, TypeError, SystemExit) as error:
            if not self._broken:
                _say(f"{_first_line(error)}; results are safe, the run may lack some of them.")
                _say(f"what it has is in {self._place}")
            self._broken = True


def start_run(
    *,
    job_type: Literal["train", "eval"],
    config: Mapping[str, Any],
    fingerprint: str,
    run_id: str | None = None,
    id_file: Path | None = None,
    folder: Path | None = None,
) -> Run:
    """Start a run, or continue one; say in one line where it is.

    ``WANDB_MODE`` chooses ``online``, ``offline`` (the default) or ``disabled``. A run that cannot
    go online, for want of an API key or of a server that answers, is offline and says so.

    Args:
        job_type: The stage that logs.
        config: The parameters; nested sections stay nested.
        fingerprint: Names a run that belongs to no experiment: ``repro-1f2e3d4c``.
        run_id: The run to continue, as ``eval`` does with the run that trained its model. Offline
            that makes a second folder of the same id, for wandb never continues one (0.31).
            ``wandb sync`` of both appends the history and merges the config, but the later summary
            replaces the earlier one, so it should hold what that did.
        id_file: Holds the id of the run to continue, as a training does that was killed; without
            it the run is new, and its id is written there.
        folder: Where ``wandb/`` goes; by default ``WANDB_DIR``, else the root of the repository.
            In ``dvc exp run --temp`` and in queues that is the parent's, which outlives the run.

    Raises:
        UserError: ``WANDB_MODE`` is not one of the three, or wandb cannot start even offline.
    """
    mode = _mode()
    note = ""
    if id_file is not None and id_file.exists():
        run_id = id_file.read_text(encoding="utf-8").strip() or None
    folder = (folder or _default_folder()).absolute()
    _set_environment(folder / "wandb")
    exit_function, exception_hook = sys.exit, sys.excepthook
    try:
        settings = _settings(job_type, folder)
        base_url = wandb.setup(settings).settings.base_url
        if mode == "online" and (reason := _why_not_online(base_url)):
            mode, note = "offline", f" ({reason})"
        try:
            run = _start(mode, job_type, config, fingerprint, run_id, settings)
        except (wandb.Error, TimeoutError) as error:
            if mode != "online":
                raise
            mode, note = "offline", f" ({_first_line(error)})"
            run = _start(mode, job_type, config, fingerprint, run_id, settings)
    except (wandb.Error, OSError, ValueError) as error:
        advice = "Put that right, or set WANDB_MODE=disabled."
        raise UserError(f"Weights & Biases cannot start: {error}\n{advice}") from None
    # wandb replaces both for good, to learn the exit code that ``finish`` is told anyway.
    sys.exit, sys.excepthook = exit_function, exception_hook
    place = _relative_to_root(Path(run.dir).parent)
    if mode == "disabled":
        _say("disabled")
    elif mode == "online":
        _say(f"online at {run.url}")
    else:
        folders = place.with_name(f"{mode}-run-*-{run.id}")  # of all stages that logged to it
        _say(f"offline{note}; to upload this run: wandb sync {folders}")
    if id_file is not None:
        write_text(id_file, run.id)
    return Run(run, place)


def _start(
    mode: Mode,
    job_type: str,
    config: Mapping[str, Any],
    fingerprint: str,
    run_id: str | None,
    settings: wandb.Settings,
) -> wandb.Run:
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    experiment = os.environ.get("DVC_EXP_NAME")
    dvc = {"dvc_exp_name": experiment, "dvc_exp_baseline_rev": baseline}
    is_new = run_id is None
    return wandb.init(
        mode=mode,
        project=os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        id=run_id,
        resume=None if is_new else "allow",
        allow_val_change=not is_new,
        # A continued run keeps the name and the job type that it has.
        name=experiment or (f"repro-{fingerprint[:8]}" if is_new else None),
        job_type=job_type if is_new else None,
        group=baseline or head_commit(),  # experiments beside the commit that they began at
        config={**config, **{key: value for key, value in dvc.items() if value}},
        settings=settings,
    )


def _set_environment(place: Path) -> None:
    """Set what wandb reads from the environment alone, unless the user has set it."""
    defaults = {
        "WANDB_SILENT": "true",  # no notice of the user's settings file
        "WANDB_ERROR_REPORTING": "false",  # nothing about failures goes to wandb's maker
        # By default wandb keeps a copy of every table, so of the dialogues, in the user's home.
        "WANDB_DATA_DIR": str(place / "data"),
        "WANDB_CACHE_DIR": str(place / "cache"),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _settings(job_type: str, folder: Path) -> wandb.Settings:
    """Return quiet settings that record nothing of the machine but its operating system."""
    return wandb.Settings(
        root_dir=str(folder),
        use_dot_wandb=False,
        silent=True,
        console="off",
        program=f"stages/{job_type}.py",
        host="-",
        disable_git=True,
        disable_code=True,
        save_code=False,
        label_disable=True,
        x_save_requirements=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        # A killed stage loses what was not yet written; by default that is 15 seconds.
        x_transaction_log_flush_interval=2.0,
        init_timeout=CONNECT_SECONDS,
        finish_timeout=UPLOAD_SECONDS,
        finish_timeout_raises=True,
    )


def _mode() -> Mode:
    mode = os.environ.get("WANDB_MODE") or "offline"
    if mode not in ("online", "offline", "disabled"):
        raise UserError(f"WANDB_MODE is {mode!r}; wanted online, offline (default) or disabled.")
    return cast(Mode, mode)


def _why_not_online(base_url: str) -> str | None:
    """Say what keeps a run from being online, if anything does.

    Never asks the user, though a stage of DVC can have a terminal.
    """
    try:
        has_key = wandb.login(prompt=False, verify=True)
    except wandb.Error:
        # wandb's own words for a server that does not answer are that it is busy itself.
        return f"no log-in at {base_url}: is it reachable, is the API key right?"
    return None if has_key else "online needs an API key: WANDB_API_KEY or `wandb login`"


def _default_folder() -> Path:
    return Path(os.environ.get("WANDB_DIR") or os.environ.get("DVC_ROOT") or ".")


def head_commit() -> str | None:
    """The commit that is checked out; None outside a git repository."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _relative_to_root(place: Path) -> Path:
    """Return the path from the repository's root, where a user is; a queue works elsewhere."""
    root = Path(os.environ.get("DVC_ROOT") or ".").absolute()
    return place.relative_to(root) if place.is_relative_to(root) else place


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _say(message: str) -> None:
    print(f"W&B: {message}", flush=True)
