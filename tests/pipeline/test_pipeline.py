"""The real dvc.yaml and stages in a temporary git repository, with a tiny model, by real dvc repro.

The model is a GPT-2 of two layers and eight dimensions that the test makes and names as a local
folder; all stages, the corpus's download included, run as they do for a user.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.full_disk import NEEDS, WHAT_TO_DO
from tests.tiny_model import make_tiny_gpt2
from tests.warm_process import warm_path
from tuning.dialogue import read_dialogues
from tuning.run.pipeline import own_stages

ROOT = Path(__file__).parents[2]
COPIED = (
    "evaluation_sets",
    "stages",
    "templates",
    "tools",
    "tuning",
    "dvc.yaml",
    "params.yaml",
    "requirements.lock",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
)
CHANGES: dict[str, dict[str, Any]] = {
    "": {"num_threads": 1},
    "data": {"max_dialogues": 24, "validation_fraction": 0.002, "test_fraction": 0.002},
    "model": {"name": "tiny_base"},
    "train": {
        "learning_rate": 1e-2,
        "gradient_accumulation_steps": 1,
        "epochs": 1,
        "mixed_precision": "no",
        "torch_compile": False,
    },
    "score": {"max_bytes": 600, "profile": "smoke", "coherence_candidates": 3},
}
STAGES = [
    "fetch",
    "corpus",
    "prep",
    "encode",
    "train",
    "score@base",
    "score@tuned",
    "eval",
    "release",
]
AFTER_TRAINING = ["train", "score@tuned", "eval", "release"]
"""What a parameter of training reruns: never the base model's scores."""
ENVIRONMENT = {
    "PATH": warm_path(),
    "DVC_NO_ANALYTICS": "1",
    "PYTHONWARNINGS": "default",
    "WANDB_MODE": "disabled",  # wandb takes two seconds in every stage that has a run
}


class Repository:
    """A user's clone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "WANDB_"))}
        result = subprocess.run(
            command,
            cwd=self.path,
            env=environment | ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check:
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result

    def repro(self, *arguments: str) -> list[str]:
        """Run ``dvc repro`` and return the stages that really ran."""
        return stages_that_ran(self.run("dvc", "repro", *arguments).stdout)

    def upcoming(self) -> list[str]:
        """Return the lines about stages that ``make repro`` prints before it runs them."""
        command = ("python", "-m", "tools.upcoming", "metrics/timing.json")
        return self.run(*command).stdout.splitlines()[1:]

    def change(self, section: str, **values: Any) -> None:
        """Set keys of a section, or of the top level."""
        yaml = YAML()
        params = yaml.load(self.path / "params.yaml")
        (params[section] if section else params).update(values)
        yaml.dump(params, self.path / "params.yaml")

    def json(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return content

    def commit(self) -> None:
        self.run("git", "add", ".")
        self.run("git", "commit", "--quiet", "--message", "state")


def stages_that_ran(output: str) -> list[str]:
    """By what dvc says: those that it took from its run-cache did not."""
    return re.findall(r"^Running stage '(\S+)'", output, re.M)


def copy_project(path: Path, texts: list[str]) -> None:
    """The project's files in a new folder, with a tiny base model learned from ``texts``."""
    path.mkdir()
    for name in COPIED:
        source, target = ROOT / name, path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    make_tiny_gpt2(path / "tiny_base", texts)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """After a first ``dvc repro`` and a commit. The tests below follow each other."""
    path = tmp_path_factory.mktemp("pipeline") / "my clone"
    texts = ["hello, how are you?", "I am fine. What do you do?", "It's raining here again."] * 50
    copy_project(path, texts)
    repository = Repository(path)
    for section, values in CHANGES.items():
        repository.change(section, **values)
    repository.run("git", "init", "--quiet", "--initial-branch", "main")
    repository.run("git", "config", "user.email", "test@localhost")
    repository.run("git", "config", "user.name", "test")
    assert repository.repro() == STAGES
    repository.commit()
    yield repository


def test_the_exact_set_of_files(repository: Repository) -> None:
    folders = ("data/prepared", "data/encoded", "data/scores", "models", "metrics")
    found = {
        path.relative_to(repository.path).as_posix()
        for folder in folders
        for path in (repository.path / folder).rglob("*")
        if path.is_file()
    }
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    extended = tokenizer | {"chat_template.jinja", "template.json"}
    arrays = {"input_ids", "is_target", "window_starts"}
    weights = {"config.json", "generation_config.json", "model.safetensors"}
    assert found == {
        "data/prepared/dropped.jsonl",
        "data/prepared/example.jsonl",
        "data/prepared/private.jsonl",
        "data/prepared/test.jsonl",
        "data/prepared/train.jsonl",
        "data/prepared/val.jsonl",
        *(f"data/encoded/{name}.npy" for name in arrays),
        *(f"data/encoded/validation/{name}.npy" for name in arrays),
        *(f"data/encoded/tokenizer/{name}" for name in extended),
        "data/scores/.gitignore",
        "data/scores/base.json",
        "data/scores/tuned.json",
        "models/.gitignore",
        *(f"models/base/{name}" for name in weights | tokenizer),
        *(f"models/trained/{name}" for name in weights | extended),
        *(f"models/finetuned/{name}" for name in weights | extended),
        "models/finetuned/README.md",
        "models/finetuned/receipt.json",
        "metrics/.gitignore",
        "metrics/coherence_blocks.jsonl",
        "metrics/encode.json",
        "metrics/eval.json",
        "metrics/eval_by_distance.csv",
        "metrics/eval_by_history.csv",
        "metrics/eval_by_length.csv",
        "metrics/eval_by_turn.csv",
        "metrics/eval_dialogues.csv",
        "metrics/generation.json",
        "metrics/prep.json",
        "metrics/report.html",
        "metrics/samples.md",
        "metrics/test.json",
        "metrics/test_dialogues.csv",
        "metrics/timing.json",
        "metrics/train.json",
        "metrics/train_log.csv",
    }


def test_training_learned_and_evaluation_says_so(repository: Repository) -> None:
    train, evaluation = repository.json("metrics/train.json"), repository.json("metrics/eval.json")
    assert train["last_epoch_loss"] < train["first_loss"] - 0.1
    assert evaluation["tuned"]["perplexity"] < evaluation["base"]["perplexity"]
    assert evaluation["change"]["bits_per_byte_high"] < 0
    assert evaluation["tuned"]["num_target_tokens"] > 1000
    with (repository.path / "metrics/train_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, train["num_steps"] + 1))


def test_every_dialogue_is_in_one_place(repository: Repository) -> None:
    counts = repository.json("metrics/prep.json")["num_dialogues"]
    assert counts.pop("input") == sum(counts.values()) == 7168
    prepared = repository.path / "data/prepared"
    train, validation, test = (
        {d.dialogue_id for d in read_dialogues(prepared / f"{side}.jsonl")}
        for side in ("train", "val", "test")
    )
    assert len(train) == counts["train"] == 24
    assert (len(validation), len(test)) == (counts["validation"], counts["test"])
    assert len(train | validation | test) == 24 + len(validation) + len(test)
    dropped = list(read_dialogues(prepared / "dropped.jsonl"))
    assert len(dropped) == 7168 - len(train | validation | test) - counts["dropped_invalid"]


def test_the_release_alone_reads_the_test_set(repository: Repository) -> None:
    """And has of it what score has of the validation dialogues, for the same two models."""
    test = repository.json("metrics/test.json")
    num_dialogues = test["set"]["num_dialogues"]
    assert num_dialogues == repository.json("metrics/prep.json")["num_dialogues"]["test"] > 3
    assert test["change"]["bits_per_byte"] < 0
    validation = repository.json("metrics/eval.json")
    for section in ("base", "tuned"):
        for name in ("template", "tokenizer_sha256"):
            assert test[section][name] == validation[section][name]
        assert test[section].keys() < validation[section].keys()
    card = (repository.path / "models/finetuned/README.md").read_text(encoding="utf-8")
    assert f"{test['tuned']['bits_per_byte']:.4f}" in card.partition("On the test set")[2]
    readers = [
        name
        for name, stage in own_stages().items()
        if any("test.jsonl" in word for word in stage["cmd"].split())
    ]
    assert readers == ["release"]
    assert "metrics/test" not in repository.run("dvc", "metrics", "show").stdout


def test_every_token_is_in_one_place(repository: Repository) -> None:
    tokens = repository.json("metrics/encode.json")["num_tokens"]
    assert tokens.pop("input") == sum(tokens.values())
    assert tokens["trained"] == repository.json("metrics/train.json")["num_target_tokens"]


def test_a_second_repro_runs_nothing(repository: Repository) -> None:
    assert repository.upcoming() == []
    assert repository.repro() == []


def test_what_is_to_run_is_said_beforehand(repository: Repository, tmp_path: Path) -> None:
    timing = repository.json("metrics/timing.json")
    seconds = {name.replace("_", "@"): section["seconds"] for name, section in timing.items()}
    assert set(seconds) == {*STAGES}
    # As in a clone: the lock stays.
    missing = {"fetch": "models/base", "prep": "data/prepared", "train": "models/trained"}
    for stage, folder in missing.items():
        shutil.move(repository.path / folder, tmp_path / stage)
    *lines, together = repository.upcoming()
    took = {stage: seconds[stage] / 60 for stage in missing}
    assert lines == [f"  {stage:<12} {minutes:4.1f} min" for stage, minutes in took.items()]
    assert together == f"  {'together':<12} {sum(took.values()):4.1f} min"
    for stage, folder in missing.items():
        shutil.move(tmp_path / stage, repository.path / folder)
    code = (ROOT / "stages/encode.py").read_text(encoding="utf-8")
    (repository.path / "stages/encode.py").write_text(f"{code}# another\n", encoding="utf-8")
    lines = repository.upcoming()
    after_encode = STAGES[STAGES.index("encode") :]
    assert [line.split()[0] for line in lines] == [
        *(name for name in after_encode if name != "score@base"),
        "together",
    ]
    shutil.copy(ROOT / "stages/encode.py", repository.path / "stages")
    assert repository.upcoming() == []


@pytest.mark.parametrize(
    ("stage", "num_blocks"),
    [
        ("fetch", 8),
        ("corpus", 8),
        ("prep", 1),
        ("prep", 500),
        ("encode", 1),
        ("encode", 40),
        ("train", 20),
        ("score@base", 1),
        ("eval", 1),
        ("eval", 8),
        ("release", 8),
    ],
)
def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(
    repository: Repository, tmp_path: Path, stage: str, num_blocks: int
) -> None:
    """A limit on the size of files stands for it, in blocks of 512 bytes."""
    path = tmp_path / "project"
    shutil.copytree(repository.path, path, ignore=shutil.ignore_patterns(".git", ".dvc", "wandb"))
    name, _, model = stage.partition("@")
    declared = own_stages()[name]
    command = declared["cmd"].replace("${key}", model).replace("${item}", f"models/{model}")
    places = {
        one if isinstance(one, str) else next(iter(one))
        for kind in ("outs", "metrics", "plots")
        for one in declared.get(kind, [])
    }
    places = {place.replace("${key}", model) for place in places}
    whole = files_in(path, places)
    for place in places:  # as DVC does
        if (path / place).is_dir():
            shutil.rmtree(path / place)
        else:
            (path / place).unlink()
    result = Repository(path).run("sh", "-c", f"ulimit -f {num_blocks} && {command}", check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert re.search(rf"\n{name}: {NEEDS} \(.+\)\. {re.escape(WHAT_TO_DO)}\n\Z", result.stderr)
    assert files_in(path, places).items() <= whole.items()
    assert not [*path.rglob(".*.tmp")]


def files_in(path: Path, places: set[str]) -> dict[str, bytes]:
    """The bytes of files and of all that is in folders, by path."""
    files = (file for place in places for file in (path / place, *(path / place).rglob("*")))
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


def test_the_card_says_what_the_run_measured(repository: Repository) -> None:
    card = (repository.path / "models/finetuned/README.md").read_text(encoding="utf-8")
    metadata, _, text = card.removeprefix("---\n").partition("\n---\n")
    (index,) = YAML(typ="safe").load(metadata)["model-index"]
    values = {
        metric["type"]: metric["value"]
        for result in index["results"]
        for metric in result["metrics"]
    }
    tuned = repository.json("metrics/eval.json")["tuned"]
    assert values["bits_per_byte"] == pytest.approx(tuned["bits_per_byte"], abs=5e-5)
    assert f"{tuned['bits_per_byte_low']:.4f} … {tuned['bits_per_byte_high']:.4f}" in text
    assert "MIT" in text and "tiny_base" in text


def test_the_model_is_used_as_its_card_and_the_documentation_say(repository: Repository) -> None:
    """One process runs both, each by itself: loading transformers takes longer than they do."""
    card = (repository.path / "models/finetuned/README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/using-the-model.md").read_text(encoding="utf-8")
    codes = [
        text.partition("```python\n")[2].partition("```")[0]
        for text in (card, page.partition("## With transformers")[2])
    ]
    run_each = "import sys\nfor code in sys.argv[1:]: exec(code, {'folder': 'models/finetuned'})"
    written = repository.run("python", "-c", run_each, *codes).stdout
    assert written.count("\n") >= 2 and written.endswith("\n")
    assert "<|" not in written
    command = next(line for line in page.splitlines() if "tools.export_gguf" in line).split()
    file = repository.path / command[-1]
    assert f"export: {file.name}" in repository.run(*command).stdout
    assert file.read_bytes()[:4] == b"GGUF"
    result = repository.run("python", "-m", "tools.export_gguf", "data", file.name, check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == "export: data is no model folder: it has no config.json."
    beside = file.with_suffix(".Modelfile")
    assert f"FROM ./{file.name}\n" in beside.read_text() and "\nTEMPLATE " in beside.read_text()
    beside.unlink()
    file.unlink()


def test_the_receipt_holds_until_something_is_touched(repository: Repository) -> None:
    verify = ("python", "-m", "tools.verify", "models/finetuned")
    said = repository.run(*verify).stdout
    assert "is what its receipt says" in said
    prompts = repository.json("models/finetuned/receipt.json")["prompts"]
    num_prompts, engine = prompts["num_prompts"], prompts["engines"]["transformers serve"]
    assert engine["num_equal"] == num_prompts > 0
    assert f"transformers serve {engine['version']} {num_prompts} of {num_prompts}" in said
    touched = {
        "models/finetuned/model.safetensors": "model file model.safetensors: was ",
        "models/finetuned/chat_template.jinja": "model file chat_template.jinja: was ",
        "models/base/config.json": "input models/base/config.json: was ",
        "data/prepared/val.jsonl": "input data/prepared/val.jsonl: was ",
        "tuning/run/files.py": "code tuning/run/files.py: was ",
    }
    for name, message in touched.items():
        file = repository.path / name
        before = file.read_bytes()
        file.write_bytes(before[:-1] + b"#")
        if name.endswith(".py"):
            file.write_bytes(before + b"# another line\n")
        result = repository.run(*verify, check=False)
        assert result.returncode == 1
        compared, *lines, last = result.stdout.splitlines()
        assert compared.startswith("verify: prompts "), compared
        first, *more = [line for line in lines if not line.startswith("verify: llama.cpp: ")]
        assert first.startswith(message), first
        if name.endswith(".jinja"):  # and so of the prompts
            assert more[0].startswith("prompts as transformers serve "), more
        else:
            assert last == "verify: 1 entry of the receipt of models/finetuned does not hold here."
        file.write_bytes(before)
    (repository.path / "models/finetuned/extra.bin").write_bytes(b"")
    repository.change("train", weight_decay=0.5)
    result = repository.run(*verify, check=False)
    assert result.stdout.splitlines()[1:3] == [
        "model file extra.bin: not in the receipt",
        "parameter train.weight_decay: was 0.0, is 0.5",
    ]
    (repository.path / "models/finetuned/extra.bin").unlink()
    repository.change("train", weight_decay=0.0)
    assert repository.run("git", "status", "--porcelain", "params.yaml").stdout == ""
    assert repository.run(*verify).returncode == 0


def test_a_runtime_parameter_reruns_nothing(repository: Repository) -> None:
    repository.change("runtime", checkpoint_minutes=0.5)
    assert repository.repro() == []


def test_an_eval_parameter_trains_nothing(repository: Repository) -> None:
    repository.change("eval", bootstrap_resamples=200)
    lines = repository.upcoming()
    assert [line.split()[0] for line in lines] == ["eval", "release"]
    assert all(line.endswith(" min with another eval.bootstrap_resamples") for line in lines)
    assert repository.repro() == ["eval", "release"]
    repository.change("eval", bootstrap_resamples=1000)
    repository.change("score", max_turns=8)
    assert repository.repro() == ["score@base", "score@tuned", "eval", "release"]


def test_an_earlier_parameter_is_a_hit_in_the_run_cache(repository: Repository) -> None:
    after = (repository.path / "metrics/eval.json").read_bytes()
    repository.change("score", max_turns=16)
    assert repository.repro() == []
    assert (repository.path / "metrics/eval.json").read_bytes() != after
    repository.run("git", "diff", "--exit-code", "metrics/eval.json", "metrics/eval_by_turn.csv")


def test_an_experiment_with_another_learning_rate(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``5e-3`` arrives as a number and reruns training and what follows from it.

    The workspace stays as it was, and takes the results from the run-cache when it asks for them;
    the run's W&B files survive.
    """
    monkeypatch.setitem(ENVIRONMENT, "WANDB_MODE", "offline")
    workspace = repository.run("git", "status", "--porcelain").stdout
    rate = "train.learning_rate=5e-3"
    said = repository.run("dvc", "exp", "run", "--temp", "--name", "slower", "-S", rate).stdout
    assert stages_that_ran(said) == AFTER_TRAINING
    assert repository.run("git", "status", "--porcelain").stdout == workspace
    shown = json.loads(repository.run("dvc", "exp", "show", "--json").stdout)
    experiment = shown[1]["experiments"][0]
    assert experiment["name"] == "slower"
    data = experiment["revs"][0]["data"]
    assert data["params"]["params.yaml"]["data"]["train"]["learning_rate"] == 5e-3
    found = data["metrics"]["metrics/eval.json"]["data"]["tuned"]["bits_per_byte"]
    runs = list((repository.path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2  # train's and eval's

    assert found != repository.json("metrics/eval.json")["tuned"]["bits_per_byte"]
    repository.change("train", learning_rate=5e-3)
    assert repository.repro() == []
    assert found == repository.json("metrics/eval.json")["tuned"]["bits_per_byte"]


def test_encoding_and_the_model_repeat_no_cleaning(repository: Repository) -> None:
    prepared = repository.path / "data/prepared"
    before = {file.name: file.read_bytes() for file in prepared.iterdir()}
    repository.change("encoding", max_length=128)
    assert repository.repro("--dry", "encode") == ["encode"]
    make_tiny_gpt2(repository.path / "tiny_base2", ["What a day, and what a night!"] * 50)
    repository.change("model", name="tiny_base2")
    assert repository.repro("encode") == ["fetch", "encode"]
    assert {file.name: file.read_bytes() for file in prepared.iterdir()} == before
    repository.change("model", name="tiny_base")
    repository.change("encoding", max_length=512)
    assert repository.repro() == []  # all are in the run-cache


@pytest.mark.thorough
def test_forced_again_the_lock_has_the_same_bytes(repository: Repository) -> None:
    lock = (repository.path / "dvc.lock").read_bytes()
    assert repository.repro("--force") == STAGES
    assert (repository.path / "dvc.lock").read_bytes() == lock


def test_commits_can_be_compared(repository: Repository) -> None:
    metrics = json.loads(repository.run("dvc", "metrics", "diff", "main", "--json").stdout)
    assert metrics["metrics/eval.json"]["tuned.bits_per_byte"]["diff"] != 0
    params = json.loads(repository.run("dvc", "params", "diff", "main", "--json").stdout)
    assert params["params.yaml"]["train.learning_rate"] == {
        "old": 1e-2,
        "new": 5e-3,
        "diff": pytest.approx(-5e-3),
    }
    plots = json.loads(repository.run("dvc", "plots", "diff", "main", "--json").stdout)
    assert plots["data"].keys() == {
        "metrics/train_log.csv",
        "metrics/eval_by_distance.csv",
        "metrics/eval_by_history.csv",
        "metrics/eval_by_length.csv",
        "metrics/eval_by_turn.csv",
        "metrics/eval_dialogues.csv",
        "Learning rate",
        "Bits per byte by turn, base",
        "History gain, base",
        "Lengths of responses, people",
        "Recall of a planted fact, base",
    }
    compared = repository.run("python", "-m", "tools.compare", "main").stdout
    line_of_bits = next(line for line in compared.splitlines() if line.startswith("bits per byte"))
    before = json.loads(repository.run("git", "show", "main:metrics/eval.json").stdout)
    assert f"{before['tuned']['bits_per_byte']:.4f}" in line_of_bits
    assert f"{repository.json('metrics/eval.json')['tuned']['bits_per_byte']:.4f}" in line_of_bits
    repository.commit()


def test_a_wrong_parameter_ends_in_one_message(repository: Repository) -> None:
    repository.change("train", learning_rte=1e-3)
    result = repository.run("dvc", "repro", check=False)
    assert result.returncode != 0
    assert "train.learning_rte: unknown key; did you mean learning_rate?" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    repository.run("git", "checkout", "--quiet", "params.yaml")
    assert repository.repro() == []
