"""publish: what arrives at the hub is the released folder, byte for byte, or nothing and why.

The real client sends it, in a process of its own, to a hub on loopback; without hf_xet, whose
protocol that hub does not speak.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_models import make_family
from tests.loopback_hub import COMMIT, Published, ReceivingHub, closed_port, receiving_hub
from tools.export_gguf.gguf_file import export
from tools.publish import check_name, files_of_gguf
from tuning.release.model_card import SHOWS_A_DIALOGUE
from tuning.release.receipt import make_receipt
from tuning.run.errors import UserError
from tuning.run.files import write_json, write_text
from tuning.run.pipeline import declared_params

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_sesame"
REPO = "ann/small-talk"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a released model and its export."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copy(ROOT / "dvc.yaml", project)
    model = make_family(project, "qwen3", "qwen2", {"head_dim": 32})
    export(model, project / "model.gguf", kind="q8_0")
    write_text(project / "model.Modelfile", "FROM ./model.gguf\n")
    write_text(model / "README.md", f"# A model\n\n{SHOWS_A_DIALOGUE}\n")
    write_json(model / "receipt.json", make_receipt(model, [], params_of(project), {}, {}))
    return project


def params_of(project: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return dict(declared_params("release"))


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def publish(
    project: Path, *arguments: str, repo: str = REPO, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a project, with a Hugging Face home of its own."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(project / "hf"), "NO_PROXY": "*"}
    ours |= {"HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "tools.publish", repo, "--model", "model", *arguments]
    return subprocess.run(
        command, cwd=project, env=ours | environment, capture_output=True, text=True, timeout=120
    )


def folder_of(project: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (project / "model").iterdir()}


def assert_failed(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One message on stderr that holds ``words``, and exit code 1."""
    assert result.returncode == 1
    assert result.stderr.strip().startswith("publish: ")
    assert "Traceback" not in result.stderr and TOKEN not in result.stderr
    for word in words:
        assert word in result.stderr


def test_the_folder_arrives_byte_for_byte_in_one_private_commit(project: Path) -> None:
    hub = ReceivingHub(TOKEN, "ann")
    with receiving_hub(hub) as endpoint:
        result = publish(project, HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN)
    assert (result.returncode, result.stderr) == (0, "")
    (published,) = hub.repositories.values()
    assert [*hub.repositories] == [REPO]
    assert published.private and published.num_commits == 1
    files = folder_of(project)
    assert published.files == files
    num_bytes = sum(map(len, files.values()))
    assert f"publish: {len(files)} files, {num_bytes:,} bytes\n" in result.stdout
    assert "README.md shows a validation dialogue of your data" in result.stdout
    assert f"/{REPO}/commit/{COMMIT}, private\n" in result.stdout


def test_a_further_commit_has_the_export_and_drops_what_is_no_longer_there(project: Path) -> None:
    earlier = {"model-00001-of-00002.safetensors": b"old", "old.gguf": b"old", "LICENSE": b"mine"}
    hub = ReceivingHub(TOKEN, "ann", repositories={REPO: Published(False, dict(earlier))})
    with receiving_hub(hub) as endpoint:
        result = publish(
            project, "--public", "--gguf", "model.gguf", HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN
        )
    assert (result.returncode, result.stderr) == (0, "")
    export = {n: (project / n).read_bytes() for n in ("model.gguf", "model.Modelfile")}
    assert hub.repositories[REPO].files == folder_of(project) | export | {"LICENSE": b"mine"}
    assert result.stdout.endswith(", public\n")


def test_a_dry_run_sends_nothing_and_needs_no_token(project: Path) -> None:
    result = publish(project, "--dry-run", HF_ENDPOINT=closed_port())
    assert (result.returncode, result.stderr) == (0, "")
    assert f"without --dry-run, it goes to {REPO}, private" in result.stdout


def break_weights(project: Path) -> None:
    file = project / "model" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def forget_the_card(project: Path) -> None:
    (project / "model" / "README.md").unlink()


def forget_the_receipt(project: Path) -> None:
    (project / "model" / "receipt.json").unlink()


def change_a_parameter(project: Path) -> None:
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(text.replace("epochs: ", "epochs: 1"), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (break_weights, ["model file model.safetensors: was ", "was not sent"]),
        (forget_the_card, ["model file README.md: not here"]),
        (forget_the_receipt, ["receipt.json is not there"]),
        (change_a_parameter, ["parameter train.epochs: was "]),
    ],
)
def test_what_the_receipt_does_not_hold_for_is_not_sent(
    project: Path, change: Any, words: list[str]
) -> None:
    change(project)
    hub = ReceivingHub(TOKEN, "ann")
    with receiving_hub(hub) as endpoint:
        assert_failed(publish(project, HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN), *words)
    assert hub.repositories == {}


def test_anothers_export_is_not_sent(project: Path) -> None:
    other = make_family(project / "other", "llama", "llama-bpe", {})
    export(other, project / "other.gguf")
    result = publish(project, "--gguf", "other.gguf", "--dry-run")
    assert_failed(result, "other.gguf is no export of model as it is now")
    with pytest.raises(UserError, match=r"params\.yaml is no export of"):
        files_of_gguf(project / "params.yaml", project / "model")
    with pytest.raises(UserError, match=r"none\.gguf is not there"):
        files_of_gguf(project / "none.gguf", project / "model")


@pytest.mark.parametrize("repo", ["small-talk", "ann/small--talk", "ann/a/b", "ann/x.git", "a b/c"])
def test_a_malformed_name_is_one_message(repo: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(repr(repo))}.*wanted OWNER/NAME"):
        check_name(repo)


REFUSED: Mapping[str, tuple[dict[str, Any], dict[str, str], list[str]]] = {
    "no token": ({}, {}, ["there is no token", "HF_TOKEN"]),
    "another's token": ({}, {"HF_TOKEN": "hf_other"}, ["does not know the token", "HF_TOKEN"]),
    "no right to write": ({"owner": "bob"}, {"HF_TOKEN": TOKEN}, ["may not write there"]),
    "public already": (
        {"repositories": {REPO: Published(False)}},
        {"HF_TOKEN": TOKEN},
        ["is there already, and public", "--public"],
    ),
    "offline": ({}, {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE is set"]),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_the_hub_refuses_is_one_message(project: Path, why: str) -> None:
    settings, environment, words = REFUSED[why]
    hub = ReceivingHub(**({"token": TOKEN, "owner": "ann"} | settings))
    with receiving_hub(hub) as endpoint:
        assert_failed(publish(project, HF_ENDPOINT=endpoint, **environment), *words)
    assert all(repository.files == {} for repository in hub.repositories.values())


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["cut", "server_error"])
def test_an_upload_that_breaks_off_leaves_no_file(project: Path, fault: Any) -> None:
    """After what the client tries again."""
    hub = ReceivingHub(TOKEN, "ann", fault)
    with receiving_hub(hub) as endpoint:
        result = publish(project, HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN)
    assert_failed(result, "the upload failed", "No file of it is in the repository")
    assert hub.repositories[REPO].files == {}


def test_a_hub_that_is_not_there_is_one_message(project: Path) -> None:
    result = publish(project, HF_ENDPOINT=closed_port(), HF_TOKEN=TOKEN)
    assert_failed(result, "the upload failed", "HF_ENDPOINT")
