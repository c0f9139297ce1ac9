"""fetch: what arrives is exactly the model and the corpus; what fails says why and leaves nothing.

Hub models come through the real client, in a process of its own, from a hub on loopback.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from stages.fetch import fetch_base_model
from tests.loopback_hub import COMMIT, REPO, Fault, closed_port, loopback_hub
from tests.tiny_model import make_tiny_gpt2
from tuning.embedded import CHITCHAT, extract_file
from tuning.run.errors import UserError
from tuning.run.files import sha256_of

ROOT = Path(__file__).resolve().parents[2]
CORPUS = "data/raw/chitchat.json"
TINY_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
NOT_WANTED = ("pytorch_model.bin", "model.fp16.safetensors", "modeling_tiny.py", "README.md")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_gpt2(folder, ["hello, how are you?", "fine, thank you, and you?"])
    return folder


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model, and beside it what many repositories hold and nobody should run or need."""
    folder = tmp_path / "source"
    shutil.copytree(tiny, folder)
    for name in NOT_WANTED:
        (folder / name).write_bytes(b"not wanted")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def run_fetch(
    project: Path,
    name: str,
    revision: str | None,
    hub: Mapping[str, Any] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the stage as DVC does, in a folder of its own and with a Hugging Face home of its own."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["model"] = {"name": name, "revision": revision}
    params["data"]["hub"] = hub or {}
    arguments = ["--hub", "data/raw/hub", "--base-model", "models/base"]
    return run_stage_of(project, params, "fetch", *arguments, **environment)


def run_corpus(project: Path, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the corpus's stage for a ``data.path``."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["data"]["path"] = path
    return run_stage_of(project, params, "corpus", "--corpus", CORPUS, **environment)


def run_stage_of(
    project: Path, params: Any, stage: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANS"))}
    ours |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(project.parent / "hf"), "NO_PROXY": "*"}
    timing = ("--timing", str(project.parent / "timing.json"))
    command = [sys.executable, "-m", f"stages.{stage}", *arguments, *timing]
    return subprocess.run(
        command, cwd=project, env=ours | environment, capture_output=True, text=True, timeout=60
    )


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def assert_failed(result: subprocess.CompletedProcess[str], project: Path, *words: str) -> None:
    """One message on stderr that holds ``words``, exit code 1, and no file left behind."""
    assert result.returncode == 1
    assert result.stderr.strip().startswith("fetch: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 4
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""
    assert files_in(project) == {"params.yaml"}


@pytest.mark.parametrize("path", ["data/raw/chitchat.json", "./data/raw", "data"])
def test_the_corpus_arrives_byte_for_byte_where_it_is_read(path: str, project: Path) -> None:
    result = run_corpus(project, path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "corpus: chitchat-dataset 0.9.0, 40.3 MB\n"
    assert files_in(project) == {"params.yaml", CORPUS}
    assert sha256_of(project / CORPUS) == CHITCHAT.sha256


@pytest.mark.parametrize("path", ["data/raw/mine.json", "data/raw/chitchat.json.gz", "/else"])
def test_a_corpus_that_nobody_reads_is_not_fetched(path: str, project: Path) -> None:
    result = run_corpus(project, path, PIP_INDEX_URL=closed_port(), PIP_NO_CACHE_DIR="1")
    assert (result.returncode, result.stderr) == (0, "")
    said = f"corpus: chitchat-dataset 0.9.0, not fetched, for data.path is {path}\n"
    assert result.stdout == said
    assert files_in(project) == {"params.yaml", CORPUS}
    assert (project / CORPUS).read_bytes() == b""


def test_a_hub_model_arrives_byte_for_byte(source: Path, project: Path) -> None:
    with loopback_hub(source) as endpoint:
        result = run_fetch(project, REPO, COMMIT, HF_ENDPOINT=endpoint)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"fetch: base model {REPO}, 0.1 MB\n"
    arrived = {f"models/base/{name}" for name in TINY_FILES}
    assert files_in(project) == arrived | {"params.yaml"}
    for name in TINY_FILES:
        file = project / "models/base" / name
        assert not file.is_symlink()
        assert file.read_bytes() == (source / name).read_bytes()


def test_sharded_weights_arrive_whole(tiny: Path, tmp_path: Path, project: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny, sharded, ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.save_pretrained(sharded, max_shard_size="20KB")
    with loopback_hub(sharded) as endpoint:
        result = run_fetch(project, REPO, COMMIT, HF_ENDPOINT=endpoint)
    assert result.returncode == 0, result.stderr
    base = project / "models/base"
    assert files_in(base) == files_in(sharded)
    assert len(list(base.glob("model-*-of-*.safetensors"))) > 1
    weights = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert all(weights[name].equal(tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gated", ["access is restricted", "HF_TOKEN"]),
        ("missing_repo", ["no such repository", "model.name"]),
        ("private_repo", ["it is private", "HF_TOKEN"]),
        ("missing_revision", ["no such commit", "History"]),
        ("server_error", ["500", "run again"]),
        ("truncated", ["download failed", "run again"]),
        ("wrong_bytes", ["model.safetensors arrived damaged", "SHA-256", "Run again"]),
    ],
)
def test_a_failing_hub_is_named_and_leaves_nothing(
    fault: Fault, words: list[str], source: Path, project: Path
) -> None:
    with loopback_hub(source, fault) as endpoint:
        result = run_fetch(project, REPO, COMMIT, HF_ENDPOINT=endpoint)
    assert_failed(result, project, REPO, COMMIT, *words)


def test_a_repository_without_safetensors_is_refused(source: Path, project: Path) -> None:
    (source / "model.safetensors").unlink()
    with loopback_hub(source) as endpoint:
        result = run_fetch(project, REPO, COMMIT, HF_ENDPOINT=endpoint)
    assert_failed(result, project, REPO, "no model.safetensors", "save_pretrained")


def test_a_hub_that_nobody_answers_for_fails_in_seconds(project: Path) -> None:
    start = time.monotonic()
    result = run_fetch(project, REPO, COMMIT, HF_ENDPOINT=closed_port())
    assert time.monotonic() - start < 28
    assert_failed(result, project, REPO, COMMIT, "refused", "Check the network")


def test_offline_mode_is_named_as_the_cause(project: Path) -> None:
    result = run_fetch(project, REPO, COMMIT, HF_HUB_OFFLINE="1")
    assert_failed(result, project, REPO, COMMIT, "HF_HUB_OFFLINE is set", "local folder")


def test_a_failed_fetch_keeps_the_model_that_was_there(tiny: Path, project: Path) -> None:
    shutil.copytree(tiny, project / "models/base")
    before = files_in(project)
    run_fetch(project, REPO, COMMIT, HF_ENDPOINT=closed_port())
    assert files_in(project) == before | {"params.yaml"}


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT + "0", "G" * 40])
def test_a_hub_model_needs_a_commit(revision: str | None, project: Path) -> None:
    with pytest.raises(UserError, match=r"model\.revision: found .* wanted a commit .*History"):
        fetch_base_model(REPO, revision, project / "base")
    assert files_in(project) == set()


def test_only_a_hub_model_has_a_revision(source: Path, project: Path) -> None:
    for name in ("smollm2-135m", str(source)):
        with pytest.raises(UserError, match=r"model\.revision: found .* wanted null"):
            fetch_base_model(name, COMMIT, project / "base")
    assert files_in(project) == set()


@pytest.mark.parametrize("name", ["gpt2", "models/no/such/folder", "./nowhere", "/no/where", " "])
def test_a_name_that_stands_for_nothing_lists_the_three_forms(name: str, project: Path) -> None:
    with pytest.raises(UserError) as error:
        fetch_base_model(name, None, project / "base")
    for form in (repr(name), "smollm2-135m", "openai-community/gpt2-medium", "path/to/folder"):
        assert form in str(error.value)


def test_a_local_folder_is_copied_without_what_is_not_the_model(
    source: Path, project: Path
) -> None:
    fetch_base_model(str(source), None, project / "base")
    assert files_in(project / "base") == TINY_FILES
    for name in TINY_FILES:
        assert (project / "base" / name).read_bytes() == (source / name).read_bytes()


def _without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")

    return change


def _cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])


def _lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def _break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("config.json"), "no config.json"),
        (_without("model.safetensors"), "no model.safetensors"),
        (_without("tokenizer.json"), "no fast tokenizer"),
        (_cut_weights, "model.safetensors is damaged"),
        (_lose_a_shard, "model-00002-of-00002.safetensors is missing"),
        (_break_tokenizer, "transformers cannot load it"),
        (_config(model_type="clip_vision_model"), "not a causal language model"),
        (_config(model_type="own", auto_map={"AutoConfig": "own.OwnConfig"}), "never run"),
        (_config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
    ],
)
def test_a_folder_that_cannot_be_trained_is_refused(
    change: Callable[[Path], None], words: str, source: Path, project: Path
) -> None:
    change(source)
    with pytest.raises(UserError, match=f"{source} cannot be used") as error:
        fetch_base_model(str(source), None, project / "base")
    assert words in str(error.value)
    assert files_in(project) == set()


def test_a_wheel_other_than_the_pinned_one_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another file than the pinned one") as error:
        extract_file(replace(CHITCHAT, wheel_sha256="0" * 64), tmp_path)
    assert "chitchat-dataset 0.9.0" in str(error.value)
    assert f"Expected sha256 {'0' * 64}" in str(error.value)
    assert CHITCHAT.wheel_sha256 in str(error.value)
    assert not list(tmp_path.rglob("*.json"))


def test_a_data_file_other_than_the_pinned_one_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{CHITCHAT.sha256}, wanted {'0' * 64}"):
        extract_file(replace(CHITCHAT, sha256="0" * 64), tmp_path)


def test_a_package_index_that_nobody_answers_for_is_named(project: Path) -> None:
    start = time.monotonic()
    result = run_corpus(
        project,
        CORPUS,
        PIP_INDEX_URL=closed_port(),
        PIP_FIND_LINKS="",
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_CACHE_DIR="1",
    )
    assert time.monotonic() - start < 28
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for words in ("chitchat-dataset 0.9.0 could not be downloaded", "Check the network", "refused"):
        assert words in result.stderr
    assert not files_in(project / "data")
