"""Mend what a killed ``dvc exp run`` or ``dvc repro`` leaves behind; no edit is ever dropped."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Container, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.scm import Git, SCMError

from tuning.run.errors import UserError
from tuning.run.process import run_stage
from tuning.run.visible import visible

_RUN_REFS = tuple(f"refs/exps/exec/EXEC_{name}" for name in ("BASELINE", "BRANCH", "MERGE"))
"""A run removes these when it ends, but leaves EXEC_HEAD; EXEC_APPLY is what was applied last."""
_ARGUMENTS = "repro.dat"
_NO_EXPERIMENTS = ("apply", "celery", "exec", "stash", "temp")
_DETACHED = re.compile(r"checkout: moving from (\S+) to [0-9a-f]{40}")
_SECONDS_TO_DETACH = 60
"""dvc detaches HEAD so soon after it has locked the workspace or (the second time) restored it."""


def main() -> None:
    """Find the repository, make sure that no dvc runs in it, and mend."""
    parser = argparse.ArgumentParser(prog="python -m tools.repair", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    args = parser.parse_args()
    logging.getLogger("kombu").setLevel(logging.ERROR)  # it misses a host, which a folder has not
    try:
        repo = Repo()
    except (NotDvcRepoError, SCMError):
        repo = None
    if repo is None or not isinstance(repo.scm, Git):
        raise UserError(f"{Path.cwd()} is in no git and DVC repository; run this in a clone.")
    held = [pid for path in rwlocks(Path(repo.tmp_dir)) for pid in _held(path).values()]
    locked = {int(pid) for pid in held if pid.isdecimal()}
    for pid, command in processes(Path(repo.root_dir), "dvc", locked):
        raise UserError(f"dvc is at work here (process {pid}: {command}); wait for it or stop it.")
    try:
        with repo, repo.lock:
            repair = Repair(repo, dry_run=args.dry_run)
            repair.everything()
    except LockError:
        raise UserError(f"a dvc holds {repo.tmp_dir}/lock; wait for it or stop it.") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"git {error.cmd[3]} failed: {error.stderr.strip()}") from None
    if repair.num_failed:
        raise UserError(
            "not all is mended; the lines above say what is not, and why. Mend that by hand (a "
            "folder below .dvc/tmp/exps is a copy: look for what you need in it, then remove it) "
            "and run this again."
        )
    if not repair.num_found:
        print("repair: found nothing to mend.")


def rwlocks(tmp: Path) -> list[Path]:
    """Files in which dvc says which process uses what: its own, and those of the copies."""
    exps = tmp / "exps"
    copies = (exps.glob(f"{place}tmp*/.dvc/tmp/rwlock") for place in ("", "standalone/"))
    return [tmp / "rwlock", exps / "rwlock", *chain.from_iterable(copies)]


def processes(root: Path, program: str, locked: Container[int] = ()) -> Iterator[tuple[int, str]]:
    """Yield number and command of each process that works in this repository or a copy of it.

    Args:
        root: The repository.
        program: Its name is that of the process, or a word of an interpreter's command.
        locked: Numbers of processes that count whatever they are called.
    """
    psutil = importlib.import_module("psutil")  # dvc needs it; it has no types
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            names = [Path(word).name for word in words]
            interpreted = names[:1] and names[0].startswith("python")  # not: tail -f dvc
            if program not in (names if interpreted else names[:1]) and process.pid not in locked:
                continue
            folder = Path(process.cwd())
        except (psutil.Error, OSError):  # it has ended, or is another user's
            continue
        owner = next((path for path in (folder, *folder.parents) if (path / ".dvc").is_dir()), None)
        if owner is not None and (owner == root or owner.is_relative_to(root / ".dvc")):
            yield process.pid, " ".join(words)


class Repair:
    """The repair of a repository in which no dvc runs; evidence goes last, should it be killed."""

    def __init__(self, repo: Any, *, dry_run: bool) -> None:
        """Read what dvc's refs and lock files say of runs that did not end."""
        self.repo = repo
        self.root = Path(repo.root_dir)
        self.tmp = Path(repo.tmp_dir)
        self.exps = self.tmp / "exps"
        self.dry_run = dry_run
        self.num_found = 0
        self.num_failed = 0
        refs = self.git("for-each-ref", "--format=%(refname)", *_RUN_REFS, "refs/exps/temp")
        self.refs = refs.split()
        self.rwlocks = {path: _held(path) for path in (self.tmp / "rwlock", self.exps / "rwlock")}
        self.time_of_stashing: int | None = None
        if "workspace" in self.rwlocks[self.exps / "rwlock"]:
            self.time_of_stashing = int((self.exps / "rwlock").stat().st_mtime)

    def everything(self) -> None:
        """Mend everything; what cannot be mended is said, and keeps nothing else from it."""
        for step in (
            self.git_locks,
            self.arguments,
            self.head,
            self.edits_in_gits_stash,
            self.copies_of_files,
            self.queue_tasks,
            self.folders,
        ):
            self.attempt(f"what is to be done for {step.__name__.replace('_', ' ')}", step)
        if self.num_failed:
            return  # the evidence is needed once more
        for ref in self.refs:
            delete = ("update-ref", "--no-deref", "-d", ref)
            self.mend(f"{ref} is a killed run's", "removed it", self.git, *delete)
        for path, held in self.rwlocks.items():
            if held:
                processes = ", ".join(sorted(set(held.values())))
                found = f"{self.name(path)} is held by what has ended (process {processes})"
                self.mend(found, "removed it", path.unlink)

    def attempt(self, what: str, action: Callable[..., object], *words: str) -> bool:
        """Do it and return True; or say why it fails."""
        try:
            action(*words)
        except (
            DvcException,
            SCMError,
            OSError,
            ValueError,
            subprocess.CalledProcessError,
        ) as error:
            self.num_failed += 1
            why = getattr(error, "stderr", None) or str(error)
            print(f"{visible(what)}: not mended: {visible(why.strip())}", flush=True)
            return False
        return True

    def mend(
        self, found: str, done: str, action: Callable[..., object] | None = None, *words: str
    ) -> None:
        """Mend one thing that was found, and say so in a line."""
        self.num_found += 1
        if action is not None and not self.dry_run and not self.attempt(found, action, *words):
            return
        print(f"{visible(found)}: {'would have ' if self.dry_run else ''}{done}.", flush=True)

    def name(self, path: Path) -> str:
        """Return a path as the user knows it."""
        return str(path.relative_to(self.root))

    def git(self, *words: str, folder: Path | None = None) -> str:
        """Run git; return what it prints."""
        command = ["git", "-C", str(folder or self.root), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def git_says(self, *words: str) -> bool:
        """Run git; return whether it says yes."""
        command = ["git", "-C", str(self.root), *words]
        return subprocess.run(command, capture_output=True).returncode == 0

    def git_locks(self) -> None:
        """Remove lock files of git's: dvc writes its files by itself, and may be killed there."""
        if not (self.refs or any(self.rwlocks.values())) or any(processes(self.root, "git")):
            return
        for name in {self.git("rev-parse", name) for name in ("--git-dir", "--git-common-dir")}:
            folder = self.root / name
            for lock in (*folder.glob("*.lock"), *folder.glob("refs/**/*.lock")):
                found = f"git's {lock.relative_to(folder)} is a killed process's"
                self.mend(found, "removed it", lock.unlink)

    def arguments(self) -> None:
        """Remove the file in which dvc hands a run its arguments, by way of the index."""
        if (self.tmp / _ARGUMENTS).exists():
            self.mend("a killed run's arguments are staged", "removed them", self._unstage)

    def _unstage(self) -> None:
        file = self.tmp / _ARGUMENTS
        self.git("rm", "--quiet", "--force", "--cached", "--ignore-unmatch", str(file))
        file.unlink(missing_ok=True)

    def head(self) -> None:
        """Put HEAD back on its branch if it was dvc that detached it; files stay as they are.

        The index stays too, unless dvc has committed: then it goes back with HEAD, as at the end
        of a run, and the files hold what is in that commit.
        """
        branch = self._branch_of_the_run()
        if branch is None:
            return
        found = "a killed dvc exp run has left HEAD detached"
        head, tip = self.git("rev-parse", "HEAD", f"refs/heads/{branch}").split()
        attach = ("symbolic-ref", "-m", f"repair: back to {branch}", "HEAD", f"refs/heads/{branch}")
        if head == tip:
            self.mend(found, f"put it back on {branch}", self.git, *attach)
        elif self._is_experiment(head) and self.git("rev-parse", "HEAD^") == tip:
            done = f"put it back on {branch}; your files hold the experiment's results"
            self.mend(found, done, lambda: (self.git(*attach), self.git("reset", "--quiet")))
        else:
            done = f"left it, for {branch} is elsewhere or commits were made; see git switch"
            self.mend(found, done)

    def _is_experiment(self, commit: str) -> bool:
        subject = self.git("log", "-1", "--format=%s", commit)
        kept = self.git("for-each-ref", f"--points-at={commit}", "refs/exps")
        return bool(kept) or subject.startswith("dvc: commit experiment ")

    def _branch_of_the_run(self) -> str | None:
        """Return the branch from which dvc detached HEAD, by the reflog; None if it was not dvc."""
        if self.git_says("symbolic-ref", "--quiet", "HEAD"):
            return None
        log = self.git("reflog", "-30", "--date=unix", "--format=%gd %gs", "HEAD").splitlines()
        entries = [line.removeprefix("HEAD@{").split("} ", 1) for line in log]
        while entries and entries[0][1].startswith(("commit: ", "reset: ")):
            entries.pop(0)
        if not entries or not (left := _DETACHED.fullmatch(entries[0][1])):
            return None
        branch, since = left[1], int(entries[0][0])
        starts = [self.time_of_stashing] if self.time_of_stashing is not None else []
        if self.refs and len(entries) > 1 and entries[1][1] == f"dvc: Restore HEAD to '{branch}'":
            starts.append(int(entries[1][0]))
        by_dvc = any(start <= since <= start + _SECONDS_TO_DETACH for start in starts)
        exists = self.git_says("show-ref", "--verify", "--quiet", f"refs/heads/{branch}")
        return branch if by_dvc and exists else None

    def edits_in_gits_stash(self) -> None:
        """Bring back edits that dvc stashed to set a run up; an older entry is the user's own."""
        since = self.time_of_stashing
        if since is None or not self.git_says("rev-parse", "--verify", "--quiet", "refs/stash"):
            return
        if int(self.git("log", "-1", "--format=%ct", "refs/stash")) < since:
            return
        if self._is_clean():
            done = "brought them back"
            self.mend("your edits are in git's stash alone", done, lambda: self._bring("pop"))
        else:
            done = "left both; see git stash show -p, then git stash drop"
            self.mend("your edits are in git's stash and in the files", done)

    def _bring(self, *words: str) -> None:
        self.git("stash", words[0], "--index", "--quiet", *words[1:])
        self._unstage()

    def _is_clean(self) -> bool:
        return not self.git("status", "--porcelain", "--untracked-files=no")

    def copies_of_files(self) -> None:
        """Clear the copies that runs start from: one in dvc's stash would run with the next run."""
        if _RUN_REFS[2] in self.refs:
            self._keep(_RUN_REFS[2], "a killed run's copy of your files")
        queue = self.repo.experiments.workspace_queue
        for rev, entry in queue.stash.stash_revs.items():
            self._keep(rev, f"experiment {entry.name}, not yet started, has a copy of your files")
        if not self.dry_run:
            queue.clear()

    def _keep(self, rev: str, found: str) -> None:
        """Apply this copy, or keep it in git's stash, unless the files hold all that it holds."""
        names = self.git("diff", "--name-only", "-z", f"{rev}^1", rev).split("\0")
        if all(self._holds(rev, name) for name in names if name and Path(name).name != _ARGUMENTS):
            self.mend(found, "let it go, your files hold the same")
        elif self._is_clean():
            done = "brought it back, with what --set-param had set (see git diff)"
            self.mend(found, done, self._bring, "apply", rev)
        else:
            done = "kept it in git's stash, for your files differ (see git stash show -p)"
            store = ("stash", "store", "--message", "a killed dvc exp run", rev)
            self.mend(found, done, self.git, *store)

    def _holds(self, rev: str, name: str) -> bool:
        """Return whether the file is this commit's. git diff trusts times, and dvc is quick."""
        file = Path(self.repo.scm.root_dir) / name
        entry = self.git("ls-tree", "--full-tree", rev, "--", f":(literal){name}").split()
        if not entry or not file.is_file():
            return not entry and not file.exists()
        same_mode = (entry[0] == "100755") == bool(file.stat().st_mode & 0o100)
        return same_mode and self.git("hash-object", "--", str(file)) == entry[2]

    def queue_tasks(self) -> None:
        """Call tasks failed that say Running for ever; dvc cannot queue them again."""
        if not (self.exps / "celery").exists():
            return
        queue = self.repo.experiments.celery_queue
        for entry in list(queue.iter_active()):
            found = f"queued experiment {entry.name} says Running, and nothing runs it"
            done = "called it failed; queue it again, and it continues from its checkpoint"
            self.mend(found, done, lambda: _call_failed(queue, entry))  # noqa: B023 (called here)

    def folders(self) -> None:
        """Remove copies of the repository in which experiments ran; fetch what they committed."""
        for folder in (*self.exps.glob("tmp*"), *self.exps.glob("standalone/tmp*")):
            num_failed = self.num_failed
            self.attempt(f"{self.name(folder)} cannot be read", self._collect, str(folder))
            if self.num_failed == num_failed:
                self._remove(folder)
        if (self.exps / "run/workspace").exists():
            self._remove(self.exps / "run/workspace")

    def _collect(self, folder: str) -> None:
        refs = ""
        if (Path(folder) / ".git").is_dir():
            command = ("for-each-ref", "--format=%(refname)", "refs/exps")
            refs = self.git(*command, folder=Path(folder))
        for ref in refs.split():
            known = self.git_says("show-ref", "--verify", "--quiet", ref)
            if ref.split("/")[2] not in _NO_EXPERIMENTS and not known:
                found = f"experiment {ref.rpartition('/')[2]} had ended when dvc was killed"
                fetch = ("fetch", "--quiet", "--no-write-fetch-head", folder)
                self.mend(found, "collected it", self.git, *fetch, f"{ref}:{ref}")

    def _remove(self, folder: Path) -> None:
        found = f"{self.name(folder)} is a killed run's"
        self.mend(found, "removed it", shutil.rmtree, str(folder))


def _held(rwlock: Path) -> dict[str, str]:
    """Read what the file says is in use, with the number of the process."""
    held = {}
    try:
        content = json.loads(rwlock.read_text(encoding="utf-8"))
        for name, infos in (content.get("read", {}) | content.get("write", {})).items():
            for info in infos if isinstance(infos, list) else [infos]:
                held[name] = str(info["pid"])
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, LookupError, AttributeError):
        return {"": "unreadable"}  # killed while it wrote; dvc refuses to work until it is gone
    return held


def _call_failed(queue: Any, entry: Any) -> None:
    """Do as ``dvc queue kill``, yet without a signal to a number that may be another's now."""
    info = queue.proc.get(entry.stash_rev)
    if info is not None:  # the process is known to have ended
        info.returncode = -1
        queue.proc[entry.stash_rev] = info
    queue.kill([entry.stash_rev])
    queue.stash_failed(entry)  # or git may collect the commit, which dvc queue status shows


if __name__ == "__main__":
    run_stage("repair", main)
