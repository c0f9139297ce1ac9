"""The recipes of docs/experiments.md run as they stand there, with a tiny model.

The commands are read out of the document, block by block, and run in a clone that pushes to a bare
git repository, to a folder and to a bucket. The bucket is moto's S3 on a free port of this machine;
its keys are planted before the first run, and the last test looks for them everywhere.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.pipeline.test_pipeline import (
    AFTER_TRAINING,
    CHANGES,
    ROOT,
    Repository,
    copy_project,
    stages_that_ran,
)

pytestmark = pytest.mark.thorough
DOCUMENT = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
SMALLER: dict[str, dict[str, Any]] = {
    "data": {"max_dialogues": 12},
    "train": {"max_steps": 3},
    "eval": {"bootstrap_resamples": 100},
}
KEY_ID, SECRET = "AKIAPLANTEDKEY000001", "planted-secret-3f9a27c05b6e41d8"
FOLDERS = ("data", "models", "metrics")  # what DVC and git must bring back
RATES, SEEDS = (1e-4, 3e-4), (1, 2, 3)
SWEEP = [f"sweep-{number + 1}" for number in range(len(RATES) * len(SEEDS))]


def section(heading: str) -> str:
    """What the document says under a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    assert found is not None, f"docs/experiments.md has no heading {heading!r}"
    return found[1]


def recipe(text: str) -> list[str]:
    """The commands in a part of the document, block by block."""
    return re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)


class Clone(Repository):
    """A clone that remembers which commands it followed, and all that they printed."""

    followed: set[str]
    said: list[str]

    def __init__(self, path: Path, *, like: Clone | None = None) -> None:
        super().__init__(path)
        self.followed = set() if like is None else like.followed
        self.said = [] if like is None else like.said

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = super().run(*command, check=False)
        self.said += [result.stdout, result.stderr]
        if check:
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result

    def follow(self, block: str) -> str:
        """Run commands of the document as they stand; return what they printed.

        Into a file, because the workers of a queue keep their caller's output open.
        """
        self.followed.update(block.splitlines())
        with NamedTemporaryFile("r", encoding="utf-8", dir=self.path.parent) as output:
            script = f'exec > "$0" 2>&1\n{block}'
            code = self.run("sh", "-eu", "-c", script, output.name, check=False).returncode
            said = output.read()
        self.said.append(said)
        assert code == 0, said[-3000:]
        return said

    def files(self) -> dict[str, str]:
        """A hash of every file that a run leaves, by path."""
        return {
            path.relative_to(self.path).as_posix(): sha256(path.read_bytes()).hexdigest()
            for folder in FOLDERS
            for path in (self.path / folder).rglob("*")
            if path.is_file()
        }

    def ref(self, experiment: str) -> str:
        """Where git keeps it."""
        pattern = f"refs/exps/*/*/{experiment}"
        refs = self.run("git", "for-each-ref", "--format=%(refname)", pattern).stdout.split()
        assert len(refs) == 1, f"experiment {experiment}: found {refs}"
        return refs[0]

    def of_experiment(self, name: str, file: str) -> str:
        """A file that git tracks, as the experiment recorded it."""
        return self.run("git", "show", f"{self.ref(name)}:{file}").stdout

    def tasks(self) -> dict[str, str]:
        """The state of each task in the queue, by name."""
        result = self.run("dvc", "queue", "status", check=False)
        while "Expecting value" in result.stderr:  # dvc read what a worker had half written
            result = self.run("dvc", "queue", "status", check=False)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        return {line.split()[1]: line.split()[-1] for line in lines if "sweep-" in line}

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 3600
        while not condition():
            assert time.monotonic() < end, self.tasks()
            time.sleep(5)  # to ask takes a core for a second, of which two tasks have use


@contextmanager
def s3(log: Path) -> Iterator[str]:
    """The address of an S3 of our own, with an empty bucket."""
    command = ["moto_server", "-H", "127.0.0.1", "-p", "0"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as server,
    ):
        try:
            end = time.monotonic() + 60
            while (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
                assert server.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            bucket = urllib.request.Request(f"{found[0]}/team-bucket", method="PUT")
            with urllib.request.urlopen(bucket) as answer:
                assert answer.status == 200
            yield found[0]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """With its remotes and keys, after a first ``dvc repro``. The tests below follow each other."""
    folder = tmp_path_factory.mktemp("experiments")
    texts = ["hello, how are you?", "I am fine. What do you do?", "It's raining here again."] * 50
    copy_project(folder / "mine", texts)
    clone = Clone(folder / "mine")
    for changes in (CHANGES, SMALLER):
        for name, values in changes.items():
            clone.change(name, **values)
    with s3(folder / "s3.log") as address, pytest.MonkeyPatch.context() as patch:
        for variable in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
            patch.delenv(f"AWS_{variable}", raising=False)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
        patch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("TEAM_KEY_ID", KEY_ID)
        patch.setenv("TEAM_SECRET", SECRET)
        patch.setenv("GIT_URL", str(folder / "origin.git"))
        patch.setenv("GIT_CONFIG_COUNT", "2")
        for number, key in enumerate(("email", "name")):
            patch.setenv(f"GIT_CONFIG_KEY_{number}", f"user.{key}")
            patch.setenv(f"GIT_CONFIG_VALUE_{number}", "test@localhost")
        clone.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", "../origin.git")
        clone.run("git", "init", "--quiet", "--initial-branch", "main")
        clone.run("git", "remote", "add", "origin", "../origin.git")
        (remotes,) = recipe(section("A remote, once"))
        clone.commit()
        clone.follow(remotes)  # and keys: they are there while everything runs
        clone.repro()
        clone.commit()
        clone.run("git", "push", "--quiet", "origin", "main")
        yield clone
        clone.run("dvc", "queue", "stop", "--kill")
        clone.wait_for(lambda: "0 active, 0 idle" in clone.run("dvc", "queue", "status").stdout)


def test_the_first_run_is_complete(clone: Clone) -> None:
    weights = {f"models/{name}/model.safetensors" for name in ("base", "trained", "finetuned")}
    assert clone.files().keys() >= weights | {"data/raw/chitchat.json", "metrics/report.html"}
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_one_experiment_records_a_number_and_leaves_the_workspace(clone: Clone) -> None:
    before = clone.files()
    (block,) = recipe(section("One experiment"))
    assert stages_that_ran(clone.follow(block)) == AFTER_TRAINING
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert clone.files() == before
    params = YAML(typ="safe").load(clone.of_experiment("slower", "params.yaml"))
    assert params["train"]["learning_rate"] == 1e-4
    lock = YAML(typ="safe").load(clone.of_experiment("slower", "dvc.lock"))
    recorded = lock["stages"]["train"]["params"]["params.yaml"]["train"]["learning_rate"]
    assert recorded == 1e-4


def test_a_sweep_runs_every_combination(clone: Clone) -> None:
    start, look = recipe(section("A sweep"))
    clone.follow(start)
    clone.wait_for(lambda: not {"Queued", "Running"} & set(clone.tasks().values()))
    assert clone.tasks() == dict.fromkeys(SWEEP, "Success"), clone.run(
        "dvc", "queue", "logs", SWEEP[0], check=False
    ).stdout
    log = clone.follow(look)
    # Another seed samples other replies of the base model too, where no other task has them yet.
    assert [stage for stage in stages_that_ran(log) if stage != "score@base"] == AFTER_TRAINING
    assert "eval: bits per byte" in log

    assert clone.run("git", "status", "--porcelain").stdout == ""
    locks = [YAML(typ="safe").load(clone.of_experiment(name, "dvc.lock")) for name in SWEEP]
    params = [lock["stages"]["train"]["params"]["params.yaml"] for lock in locks]
    found = [(each["train"]["learning_rate"], each["seed"]) for each in params]
    assert found == list(product(RATES, SEEDS))
    assert len({lock["stages"]["train"]["outs"][0]["md5"] for lock in locks}) == len(SWEEP)
    assert len({bits_per_byte(clone, name) for name in SWEEP}) == len(SWEEP)


def test_the_table_is_sorted_and_shows_what_differs(clone: Clone) -> None:
    names = ["slower", *SWEEP]
    expected = sorted(names, key=lambda name: bits_per_byte(clone, name))
    (block,) = recipe(section("A table of them"))
    clone.follow(block)
    wide, narrow = re.split(r"\n(?=dvc)", block.rstrip())
    for command in (wide, narrow):
        table = clone.run("sh", "-eu", "-c", f"{command} --csv").stdout
        rows = list(csv.DictReader(io.StringIO(table)))
        assert [row["Experiment"] for row in rows if row["Experiment"] in names] == expected
        assert len(rows) == len(names) + 2  # the workspace and its commit
        columns = {"Experiment", "train.learning_rate", "seed", "tuned.bits_per_byte"}
        if command == narrow:
            assert rows[0].keys() == columns
        else:
            assert rows[0].keys() >= columns
            assert rows[0].keys().isdisjoint({"encoding.max_length", "train.batch_size"})


def test_better_or_not_and_back_again(clone: Clone, files: dict[str, dict[str, str]]) -> None:
    applied, back = recipe(section("Is it better?"))
    files["main"] = clone.files()
    said = clone.follow(applied)
    files["slower"] = clone.files()
    assert files["slower"] != files["main"]
    assert "8 runs of 3 configurations on the same" in " ".join(said.split())
    assert all(f"train.learning_rate={rate}" in said for rate in (0.01, *RATES))
    of_seeds, of_one = re.findall(r"^bits per byte +(\d\S*) +(\S+)", said, re.M)
    assert of_one == tuple(f"{bits_per_byte(clone, name):.4f}" for name in ("main", "slower"))
    for number, names in zip(of_seeds, (SWEEP[: len(SEEDS)], SWEEP[len(SEEDS) :]), strict=True):
        expected = mean(bits_per_byte(clone, name) for name in names)
        assert float(number) == pytest.approx(expected, abs=1e-4)
    (rates,) = re.findall(r"^params.yaml +train.learning_rate +(\S+) +(\S+)", said, re.M)
    assert [float(rate) for rate in rates] == [1e-2, 1e-4]
    assert re.search(r"^metrics/eval.json +tuned.bits_per_byte +\S+ +\S+ +\S+$", said, re.M)
    page = (clone.path / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'"rev": "(\w+)"', page)) == {"main", "workspace"}

    clone.follow(back)
    assert clone.files() == files["main"]
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert clone.repro() == []


def test_a_kept_experiment_is_a_branch(clone: Clone) -> None:
    (block,) = recipe(section("Keep and share one"))
    clone.follow(block)
    branch = clone.run("git", "show", "slower-branch:dvc.lock").stdout
    assert branch == clone.of_experiment("slower", "dvc.lock")
    listed = clone.run("dvc", "exp", "list", "--name-only", "origin").stdout
    assert set(listed.split()) == {"slower", "sweep-1"}


def test_another_machine_gets_everything_from_the_folder(
    clone: Clone, files: dict[str, dict[str, str]]
) -> None:
    block, _ = recipe(section("On another machine"))
    fresh, experiment = re.split("^(?=dvc exp pull)", block, flags=re.M)
    said = Clone(clone.path.parent, like=clone).follow(fresh)
    other = Clone(clone.path.with_name("dialogue-tuning"), like=clone)
    assert stages_that_ran(said) == []
    assert other.files() == files["main"]
    assert other.repro() == []

    other.follow(experiment)
    assert other.files() == files["slower"]
    assert "up to date" in other.run("dvc", "status").stdout


def test_another_machine_gets_everything_from_the_bucket(
    clone: Clone, files: dict[str, dict[str, str]]
) -> None:
    *_, block = recipe(section("On another machine"))
    elsewhere = clone.path.parent / "elsewhere"  # from here the folder is out of reach
    elsewhere.mkdir()
    Clone(elsewhere, like=clone).run("git", "clone", "--quiet", "../origin.git", "theirs")
    other = Clone(elsewhere / "theirs", like=clone)
    refused = other.run("dvc", "pull", "--remote", "bucket", check=False)
    assert refused.returncode != 0 and "credentials" in refused.stderr.lower()
    for command in re.findall("^dvc .*--local .*$", section("A remote, once"), re.M):
        other.run("sh", "-eu", "-c", command)
    pull, *rest = block.splitlines(keepends=True)
    other.run("sh", "-eu", "-c", pull)
    assert other.files() == files["main"]
    other.follow(block)
    assert other.of_experiment("sweep-1", "dvc.lock") == clone.of_experiment("sweep-1", "dvc.lock")
    assert "up to date" in other.run("dvc", "status").stdout
    assert other.files()["models/finetuned/model.safetensors"] not in files["main"].values()


def test_the_workspace_keeps_what_an_experiment_in_it_sets(clone: Clone) -> None:
    change = "runtime.checkpoint_minutes=1.5"  # no stage declares it, so none runs
    forgotten = clone.path / "stages/forgotten.py"
    forgotten.touch()
    clone.run("dvc", "exp", "run", "--temp", "--name", "forgetful", "-S", change)
    assert clone.run("git", "status", "--porcelain", "stages").stdout == "?? stages/forgotten.py\n"
    tree = clone.run("git", "ls-tree", "--name-only", clone.ref("forgetful"), "stages/").stdout
    assert "stages/train.py" in tree and forgotten.name not in tree
    forgotten.unlink()

    said = clone.run("dvc", "exp", "run", "--name", "here", "-S", change).stdout
    assert stages_that_ran(said) == []
    with_change = (clone.path / "params.yaml").read_text(encoding="utf-8")
    assert "checkpoint_minutes: 1.5" in with_change

    clone.run("dvc", "exp", "apply", "slower")  # over an edit that no commit has
    assert "checkpoint_minutes: 1.5" not in (clone.path / "params.yaml").read_text(encoding="utf-8")
    for command in re.findall(r"`(git (?:restore|stash) .+?)`", section("What to expect")):
        clone.run(*command.split())
    assert (clone.path / "params.yaml").read_text(encoding="utf-8") == with_change


def test_every_recipe_was_run(clone: Clone) -> None:
    written = {line for block in recipe(DOCUMENT) for line in block.splitlines()}
    assert clone.followed == written


def test_the_keys_are_nowhere_but_in_the_local_configuration(clone: Clone) -> None:
    folder = clone.path.parent
    holders = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and any(key in path.read_bytes() for key in (KEY_ID.encode(), SECRET.encode()))
    }
    assert holders == {"mine/.dvc/config.local", "elsewhere/theirs/.dvc/config.local"}
    for key in (KEY_ID, SECRET):
        assert not [said for said in clone.said if key in said]
    for name in ("mine", "dialogue-tuning", "elsewhere/theirs", "origin.git"):
        git = Clone(folder / name)
        commits = git.run("git", "rev-list", "--all").stdout.split()
        found = git.run("git", "grep", "-e", KEY_ID, "-e", SECRET, *commits, check=False)
        assert (found.returncode, found.stdout) == (1, "")  # 1: searched, and not there


def bits_per_byte(clone: Clone, revision: str) -> float:
    name = "metrics/eval.json"
    if revision == "main":
        content = clone.run("git", "show", f"main:{name}").stdout
    else:
        content = clone.of_experiment(revision, name)
    value: float = json.loads(content)["tuned"]["bits_per_byte"]
    return value


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, str]]:
    """What the clone held on main and with an experiment applied, for the tests after that one."""
    return {}
