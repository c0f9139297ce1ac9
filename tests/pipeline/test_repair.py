"""Kill a real dvc at a known moment; ``python -m tools.repair`` leaves a repository as before.

The stage waits for a file instead of training (test_killed.py has a killed training repaired).
Moments within dvc's own code are the n-th call of one of its functions (``KILL_AT``): some are too
short to be met by chance.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.pipeline.test_killed import Clone
from tests.pipeline.test_pipeline import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

NOTHING = "repair: found nothing to mend.\n"
FILES = {
    ".gitignore": "/started\n/go\n__pycache__/\n",
    "dvc.yaml": (
        "stages: {train: {cmd: exec python wait.py, deps: [wait.py], params: [n], outs: [out]}}\n"
    ),
    "params.yaml": "n: 1\n",
    "wait.py": (
        "import os, pathlib, time\n"
        "root = pathlib.Path(os.environ['DVC_ROOT'])\n"
        "(root / 'started').write_text(str(os.getpid()))\n"
        "while not (root / 'go').exists():\n"
        "    time.sleep(0.01)\n"
        "pathlib.Path('out').write_text('trained')\n"
    ),
    "changed.txt": "old\n",
    "staged.txt": "old\n",
}
REPAIR = (
    "tools/__init__.py",
    "tools/repair.py",
    "tuning/__init__.py",
    "tuning/run/__init__.py",
    "tuning/run/errors.py",
    "tuning/run/files.py",
    "tuning/run/process.py",
    "tuning/run/visible.py",
)
"""The command and all that it imports."""
EDITS = {"changed.txt": "changed\n", "staged.txt": "staged\n", "untracked.txt": "mine\n"}
KILLER = """
import os, signal, sys
place, function, number = os.environ["KILL_AT"].split(":")
left = int(number)
def look(frame, event, _):
    global left
    code = frame.f_code
    if event == "call" and code.co_name == function and code.co_filename.endswith(place):
        left -= 1
        if not left:
            os.killpg(0, signal.SIGKILL)
class Experiments:  # looking is slow, and importing dvc need not be looked at
    def find_spec(name, *_):
        if name == "dvc.repo.experiments.queue.base":
            sys.setprofile(look)
sys.meta_path.insert(0, Experiments)
"""


class Cheap(Clone):
    """A clone whose one stage waits for a file named go."""

    def repair(self, *options: str) -> str:
        return self.run("python", "-m", "tools.repair", *options).stdout

    def edit(self) -> None:
        for name, text in EDITS.items():
            (self.path / name).write_text(text)
        self.run("git", "add", "staged.txt")

    def edits(self) -> dict[str, str]:
        return {name: (self.path / name).read_text() for name in EDITS}

    def head(self) -> str:
        return (self.path / ".git/HEAD").read_text().strip()

    def refs(self) -> str:
        return self.run("git", "for-each-ref").stdout

    def kill_in_the_stage(self, *command: str) -> None:
        """SIGKILL to everything that the command has started, while the stage runs."""
        with self.start(*command):
            self.wait_for(self.stage)
            os.killpg(os.getpgid(self.stage()), signal.SIGKILL)
        self.wait_for(lambda: not is_alive(self.stage()))
        (self.path / "started").unlink()

    def kill_at(self, moment: str, *command: str) -> None:
        """SIGKILL to dvc at a call of one of its functions: file:function:number of the call."""
        (self.path / "go").touch()
        folder = self.path.with_name("killer")
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(KILLER)
        with self.start("env", f"PYTHONPATH={folder}", f"KILL_AT={moment}", *command) as process:
            assert process.wait(timeout=60) == -signal.SIGKILL, self.output()[-3000:]

    def stage(self) -> int:
        """The stage's process, 0 before it has started."""
        with suppress(OSError, ValueError):
            return int((self.path / "started").read_text())
        return 0

    def tasks(self) -> dict[str, str]:
        """What ``dvc queue status`` says of each experiment."""
        lines = self.run("dvc", "queue", "status").stdout.partition("\n\n")[0].splitlines()[1:]
        return {line.split()[1]: line.split()[-1] for line in lines}

    def runs_again(self) -> None:
        """An experiment comes to its end, on the branch, with the edits."""
        (self.path / "go").touch()
        self.run("dvc", "exp", "run", "--name", "again", "--set-param", "n=9")
        assert self.head() == "ref: refs/heads/main"
        assert "/again\n" in self.refs()
        assert self.edits() == EDITS


def is_alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit."""
    path = tmp_path_factory.mktemp("repair") / "my clone"
    (path / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc/config", path / ".dvc/config")
    for name in REPAIR:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path / name)
    for name, text in FILES.items():
        (path / name).write_text(text)
    clone = Cheap(path)
    clone.run("git", "init", "--quiet", "--initial-branch", "main")
    clone.run("git", "config", "user.email", "test@localhost")
    clone.run("git", "config", "user.name", "test")
    clone.run("dvc", "status")  # makes .dvc/.gitignore
    (path / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    clone.commit()
    return path


@pytest.fixture
def clone(original: Path, tmp_path: Path) -> Cheap:
    path = tmp_path / "my clone"
    shutil.copytree(original, path, symlinks=True)
    return Cheap(path)


def test_a_run_killed_in_a_stage(clone: Cheap) -> None:
    clone.edit()
    clone.kill_in_the_stage("dvc", "exp", "run", "--set-param", "n=5")
    commit = clone.run("git", "rev-parse", "main").stdout.strip()
    assert clone.head() == commit, "dvc detaches HEAD no more"
    before = clone.refs(), clone.run("git", "status", "--short").stdout
    expected = [
        "a killed dvc exp run has left HEAD detached: put it back on main.",
        "a killed run's copy of your files: let it go, your files hold the same.",
        ".dvc/tmp/exps/run/workspace is a killed run's: removed it.",
        "refs/exps/exec/EXEC_BASELINE is a killed run's: removed it.",
        "refs/exps/exec/EXEC_MERGE is a killed run's: removed it.",
    ]
    would = [line.replace(": ", ": would have ") for line in expected]
    assert clone.repair("--dry-run").splitlines()[:-1] == would
    assert clone.head() == commit
    assert (clone.refs(), clone.run("git", "status", "--short").stdout) == before
    *said, last = clone.repair().splitlines()
    assert said == expected
    assert last.startswith(".dvc/tmp/rwlock is held by what has ended (process ")
    assert clone.head() == "ref: refs/heads/main"
    assert clone.edits() == EDITS
    assert (clone.path / "params.yaml").read_text() == "n: 5\n"
    assert clone.run("git", "status", "--short").stdout == before[1]
    assert clone.repair() == NOTHING
    clone.runs_again()


STASH = "scmrepo/git/stash.py"
MOMENTS = {
    "edits only in git's stash, HEAD detached": (
        f"{STASH}:apply:1",
        ["a killed dvc exp run has left HEAD detached", "your edits are in git's stash alone"],
    ),
    "edits in both, arguments staged, HEAD detached": (
        f"{STASH}:push:2",
        [
            "a killed run's arguments are staged",
            "a killed dvc exp run has left HEAD detached",
            "your edits are in git's stash and in the files",
        ],
    ),
    "edits only in git's stash, on the branch, an experiment in dvc's stash": (
        f"{STASH}:apply:2",
        [
            "your edits are in git's stash alone",
            "experiment killed, not yet started, has a copy of your files",
        ],
    ),
    "edits only in EXEC_MERGE": (
        f"{STASH}:apply:3",
        [
            "a killed dvc exp run has left HEAD detached",
            "a killed run's copy of your files",
            "refs/exps/exec/EXEC_BASELINE is a killed run's",
            "refs/exps/exec/EXEC_MERGE is a killed run's",
        ],
    ),
    "HEAD detached at the experiment's commit": (
        "executor/local.py:cleanup:1",
        [
            "a killed dvc exp run has left HEAD detached",
            "a killed run's copy of your files",
            ".dvc/tmp/exps/run/workspace is a killed run's",
            "refs/exps/exec/EXEC_BASELINE is a killed run's",
            "refs/exps/exec/EXEC_BRANCH is a killed run's",
            "refs/exps/exec/EXEC_MERGE is a killed run's",
        ],
    ),
    "git's index is locked": (
        "dulwich/file.py:close:1",
        ["git's index.lock is a killed process's"],
    ),
    "dvc's rwlock is half written": (
        "json/__init__.py:dump:3",
        ["experiment killed, not yet started, has a copy of your files"],
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_within_dvc(clone: Cheap, moment: str) -> None:
    place, expected = MOMENTS[moment]
    clone.edit()
    clone.kill_at(place, "dvc", "exp", "run", "--name", "killed", "--set-param", "n=5")
    found = [line.partition(": ")[0] for line in clone.repair().splitlines()]
    rwlock = ".dvc/tmp/exps/rwlock is held by what has ended"
    assert [name for name in found if not name.startswith(rwlock)] == expected
    assert clone.head() == "ref: refs/heads/main"
    assert clone.edits() == EDITS
    staged = clone.run("git", "diff", "--cached", "--name-only").stdout.splitlines()
    assert set(staged) <= {"params.yaml", "staged.txt"}
    assert clone.repair() == NOTHING
    clone.runs_again()


def test_a_killed_repro(clone: Cheap) -> None:
    clone.edit()
    clone.kill_in_the_stage("dvc", "repro")
    (line,) = clone.repair().splitlines()
    assert line.startswith(".dvc/tmp/rwlock is held by what has ended (process ")
    assert clone.repair() == NOTHING
    assert clone.edits() == EDITS
    (clone.path / "go").touch()
    assert clone.repro() == ["train"]


def test_an_experiment_killed_in_its_copy(clone: Cheap) -> None:
    """``--temp``: dvc exp show says running, until the copy is gone."""
    clone.edit()
    clone.kill_in_the_stage("dvc", "exp", "run", "--temp", "--set-param", "n=5")
    assert '"state": "running"' in clone.run("dvc", "exp", "show", "--json").stdout
    (line,) = clone.repair().splitlines()
    assert line.startswith(".dvc/tmp/exps/standalone/tmp")
    assert list(clone.path.glob(".dvc/tmp/exps/standalone/tmp*")) == []
    assert '"state": "running"' not in clone.run("dvc", "exp", "show", "--json").stdout
    clone.runs_again()


def test_an_experiment_killed_when_it_was_done_is_collected(clone: Cheap) -> None:
    command = ("dvc", "exp", "run", "--temp", "--name", "done", "--set-param", "n=5")
    clone.kill_at("queue/tempdir.py:collect_executor:1", *command)
    assert "/done\n" not in clone.refs()
    assert clone.repair().startswith(
        "experiment done had ended when dvc was killed: collected it.\n"
    )
    shown = clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    (experiment,) = (ref for ref in shown.split() if ref.endswith("/done"))
    assert clone.run("git", "show", f"{experiment}:params.yaml").stdout == "n: 5\n"
    assert clone.repair() == NOTHING


def test_a_killed_queue(clone: Cheap) -> None:
    """The task that ran has failed; the one that waits can run."""
    clone.edit()
    for name, value in (("first", 5), ("second", 6)):
        clone.run("dvc", "exp", "run", "--queue", "--name", name, "--set-param", f"n={value}")
    with clone.start("dvc", "queue", "start") as process:
        assert process.wait(timeout=60) == 0
    clone.wait_for(clone.stage)
    os.killpg(os.getpgid(clone.stage()), signal.SIGKILL)  # the worker and all it has started
    clone.wait_for(lambda: not is_alive(clone.stage()))
    assert clone.tasks() == {"first": "Running", "second": "Queued"}
    said = clone.repair()
    assert said.startswith("queued experiment first says Running, and nothing runs it: ")
    assert clone.repair() == NOTHING
    clone.run("git", "gc", "--quiet", "--prune=now")
    assert clone.tasks() == {"first": "Failed", "second": "Queued"}
    assert list(clone.path.glob(".dvc/tmp/exps/tmp*")) == []
    (clone.path / "go").touch()
    try:
        with clone.start("dvc", "queue", "start") as process:
            assert process.wait(timeout=60) == 0
        clone.wait_for(lambda: clone.tasks() == {"first": "Failed", "second": "Success"})
    finally:
        clone.run("dvc", "queue", "stop", "--kill")
    assert clone.edits() == EDITS


def test_a_head_that_the_user_detached_stays(clone: Cheap) -> None:
    clone.kill_in_the_stage("dvc", "exp", "run")
    clone.run("git", "switch", "--quiet", "main")
    head = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    clone.run("git", "switch", "--quiet", "--detach", head)  # in the reflog it looks like dvc's
    assert clone.head() == head
    assert "refs/exps/exec/EXEC_BASELINE is a killed run's: removed it.\n" in clone.repair()
    assert clone.head() == head
    clone.kill_in_the_stage("dvc", "exp", "run")
    assert "refs/exps/exec/EXEC_BASELINE is a killed run's: removed it.\n" in clone.repair()
    assert clone.head() == head
    assert clone.repair() == NOTHING


def test_commits_after_the_kill_are_not_left_behind(clone: Cheap) -> None:
    clone.edit()
    clone.kill_in_the_stage("dvc", "exp", "run")
    clone.run("git", "commit", "--quiet", "--all", "--message", "mine")
    head = clone.head()
    assert "left it, for main is elsewhere or commits were made" in clone.repair()
    assert clone.head() == head
    assert clone.repair() == NOTHING


def test_the_users_own_stash_stays(clone: Cheap) -> None:
    clone.edit()
    clone.run("git", "stash", "push", "--quiet")
    time.sleep(1.1)  # git counts in seconds
    clone.kill_at(f"{STASH}:push:2", "dvc", "exp", "run", "--set-param", "n=5")
    clone.run("git", "checkout", "--quiet", "HEAD", "params.yaml")
    clone.repair()
    assert "WIP on main" in clone.run("git", "stash", "list").stdout
    assert (clone.path / "changed.txt").read_text() == "old\n"


def test_nothing_is_done_while_dvc_runs(clone: Cheap) -> None:
    with clone.start("dvc", "exp", "run") as dvc:
        clone.wait_for(clone.stage)
        before = clone.refs()
        result = clone.run("python", "-m", "tools.repair", check=False)
        assert result.returncode == 1
        assert f"repair: dvc is at work here (process {dvc.pid}: " in result.stderr
        assert clone.refs() == before
        (clone.path / "go").touch()
        assert dvc.wait(timeout=60) == 0
    with clone.start("tail", "-f", "dvc.yaml"):
        assert clone.repair() == NOTHING


LOCKED = """
import json, os, sys, time
os.makedirs(".dvc/tmp", exist_ok=True)
held = {"write": {"out": {"pid": os.getpid(), "cmd": "mine"}}, "read": {}}
open(sys.argv[1], "w").write(json.dumps(held))
open("started", "w").write(str(os.getpid()))
time.sleep(60)
"""
"""A script of one's own that uses dvc as a library."""


@pytest.mark.parametrize("options", [("-u", "-m"), ("-X", "dev", "-W", "ignore", "-um")])
def test_a_living_experiment_keeps_its_folder_however_it_was_started(
    clone: Cheap, options: tuple[str, ...]
) -> None:
    command = ("python", *options, "dvc", "exp", "run", "--temp", "--set-param", "n=5")
    with clone.start(*command) as dvc:
        clone.wait_for(clone.stage)
        result = clone.run("python", "-m", "tools.repair", check=False)
        assert result.returncode == 1
        assert f"repair: dvc is at work here (process {dvc.pid}: " in result.stderr
        assert list(clone.path.glob(".dvc/tmp/exps/standalone/tmp*"))
        (clone.path / "go").touch()
        assert dvc.wait(timeout=60) == 0


def test_what_holds_dvcs_locks_is_at_work_whatever_it_is_called(clone: Cheap) -> None:
    with clone.start("python", "-c", LOCKED, ".dvc/tmp/rwlock") as script:
        clone.wait_for(clone.stage)
        result = clone.run("python", "-m", "tools.repair", check=False)
        assert f"repair: dvc is at work here (process {script.pid}: " in result.stderr
        script.kill()
    assert "is held by what has ended" in clone.repair()


def test_what_cannot_be_mended_keeps_nothing_else_from_it(clone: Cheap) -> None:
    """And the evidence stays, by which the next repair mends the rest."""
    clone.edit()
    clone.kill_in_the_stage("dvc", "exp", "run", "--set-param", "n=5")
    broken = clone.path / ".dvc/tmp/exps/tmp-broken"
    whole = broken.with_name("tmp-whole")
    broken.write_text("no folder")
    whole.mkdir()
    before = clone.refs()
    result = clone.run("python", "-m", "tools.repair", check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "tmp-broken is a killed run's: not mended: [Errno 20] Not a directory" in result.stdout
    assert "repair: not all is mended" in result.stderr
    assert broken.exists() and not whole.exists()
    assert clone.edits() == EDITS and clone.head() == "ref: refs/heads/main"
    assert "EXEC_BASELINE" in before and "EXEC_BASELINE" in clone.refs()
    broken.unlink()
    assert "refs/exps/exec/EXEC_BASELINE is a killed run's: removed it." in clone.repair()
    assert clone.repair() == NOTHING
    clone.runs_again()


def test_what_ended_well_needs_no_repair(clone: Cheap) -> None:
    (clone.path / "go").touch()
    assert clone.repair() == NOTHING
    clone.run("dvc", "repro")
    clone.run("dvc", "exp", "run", "--temp", "--set-param", "n=2")
    clone.run("dvc", "exp", "run", "--set-param", "n=3")
    before = clone.refs()
    assert clone.repair() == NOTHING
    assert clone.refs() == before


@pytest.mark.parametrize("command", [(), ("git", "init", "--quiet"), ("dvc", "init", "--no-scm")])
def test_elsewhere_it_says_so(clone: Cheap, tmp_path: Path, command: tuple[str, ...]) -> None:
    elsewhere = Cheap(tmp_path / "elsewhere")
    for folder in ("tools", "tuning"):
        shutil.copytree(clone.path / folder, elsewhere.path / folder)
    if command:
        elsewhere.run(*command)
    result = elsewhere.run("python", "-m", "tools.repair", check=False)
    assert result.returncode == 1
    message = f"repair: {elsewhere.path} is in no git and DVC repository; run this in a clone."
    first, *more = result.stderr.strip().splitlines()
    assert first == message
    assert all("ResourceWarning" in line for line in more)  # of DVC's, on Python 3.13
