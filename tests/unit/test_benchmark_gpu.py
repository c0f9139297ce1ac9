"""The GPU benchmark with tiny models on what there is: each part, and what does not end well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import DONE
from benchmarks.gpu_models import SIZES, make_rows, train_params
from benchmarks.gpu_parts import METHODS
from benchmarks.gpu_report import report
from tuning.run.params import LoraParams, TrainParams

Content = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, str]:
    """What a whole run leaves."""
    folder = tmp_path_factory.mktemp("benchmark")
    files = {name: folder / name for name in ("json", "markdown")}
    options = [f"--{name}={file}" for name, file in files.items()]
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", *options]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(files["json"].read_text()), files["markdown"].read_text()


def of_part(content: Content, part: str) -> list[Content]:
    return [row for row in content["rows"] if row["part"] == part]


def test_every_part_is_measured(written: tuple[Content, str]) -> None:
    content, _ = written
    assert content.keys() == {"about", "minutes", "is_tiny", "rows"}
    assert content["about"].keys() >= {"device", "kind", "memory_gb", "peak_tflops", "versions"}
    measured = [row for row in content["rows"] if row["part"] != "plan"]
    assert {row["outcome"] for row in measured} == {DONE}
    (agreement,) = of_part(content, "agree")
    assert len(agreement["differences"]) == 3
    ours = {row["method"] for row in of_part(content, "train") if row["by"] == "this project"}
    assert ours == METHODS.keys()
    for row in of_part(content, "train"):
        assert min(row["tokens_per_second"], row["share_of_peak"], row["peak_memory_gb"]) > 0
    assert {row["dtype"] for row in of_part(content, "score")} == {"float32", "bfloat16"}


def test_the_plain_loop_makes_the_same_steps(written: tuple[Content, str]) -> None:
    """Its first loss is that of the same windows; its last follows from the same updates."""
    by = {row["by"]: row for row in of_part(written[0], "train") if row["method"] == "full"}
    plain, ours = by["plain loop"], by["this project"]
    assert plain["first_loss"] == pytest.approx(ours["first_loss"], rel=1e-3)
    assert plain["last_loss"] == pytest.approx(ours["last_loss"], rel=1e-3)
    assert plain["last_loss"] != pytest.approx(plain["first_loss"], rel=1e-5)


def test_a_run_is_killed_and_continued_to_the_same_bytes(written: tuple[Content, str]) -> None:
    content, tables = written
    alone, killed, continued = of_part(content, "resume")
    assert killed["signal"] == 9
    assert "weights_sha256" not in killed
    assert 0 < continued["num_steps_here"] < continued["num_steps"] == alone["num_steps_here"]
    assert continued["weights_sha256"] == alone["weights_sha256"]
    assert any("continuing from checkpoint-" in line for line in continued["said"])
    assert "left alone: the same bytes." in tables


def test_other_bytes_are_said_and_a_run_that_did_not_end_shows_nothing(
    written: tuple[Content, str],
) -> None:
    content = json.loads(json.dumps(written[0]))
    continued = of_part(content, "resume")[-1]
    continued["weights_sha256"] = "0" * 64
    assert "left alone: OTHER BYTES." in report(content)
    del continued["weights_sha256"]
    assert "left alone: not shown" in report(content)


UNHAPPY = """
import json, sys, tempfile
from pathlib import Path
from benchmarks.gpu import Runs, Task, training
with tempfile.TemporaryDirectory() as folder:
    runs = Runs(Path(folder), seconds=600, is_tiny=True)
    rows = [
        runs.run(training("no such size", "full"), memory_gb=1),
        runs.run(training("tiny", "full", guess=1e9), memory_gb=1),
        runs.run(Task(part="train", needs=("no_such_package",)), memory_gb=1),
        Runs(Path(folder), seconds=0.01, is_tiny=True).run(training("tiny", "full", guess=0)),
    ]
print(json.dumps(rows))
"""
"""In a process without this one's threads, for the benchmark forks."""


def test_what_fails_or_does_not_fit_is_a_row_and_what_is_late_is_stopped(
    written: tuple[Content, str],
) -> None:
    said = subprocess.run([sys.executable, "-c", UNHAPPY], check=True, capture_output=True)
    rows = json.loads(said.stdout)
    failed, slow, missing, late = (row["outcome"] for row in rows)
    assert failed == "failed: KeyError: 'no such size'"
    assert slow.startswith("left out: about ")
    assert missing == "left out without no_such_package"
    assert late.startswith("stopped after ")
    tables = report(written[0] | {"rows": rows[:1]})
    assert "| no such size | full | this project | failed: KeyError: 'no such size' |" in tables


@pytest.mark.skipif(torch.cuda.is_available(), reason="states what a machine without a GPU says")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    files = [f"--{name}={tmp_path / name}" for name in ("json", "markdown")]
    command = [sys.executable, "-m", "benchmarks.gpu", *files]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 1
    assert "no CUDA GPU was found (the first process: done)" in said.stderr
    assert "--tiny" in said.stderr
    assert "Traceback" not in said.stderr
    assert not list(tmp_path.iterdir())


def test_it_needs_no_package_but_those_it_names() -> None:
    """Not those that read params.yaml, run the DAG or track it: a GPU machine may lack them."""
    code = """
import sys
import benchmarks.gpu
print(*{name.partition(".")[0] for name in sys.modules}, "tuning.run.params" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    *loaded, has_params = said.stdout.split()
    assert not {"pydantic", "ruamel", "dvc", "wandb", "peft", "bitsandbytes"} & set(loaded)
    assert has_params == "False"


def test_its_parameters_are_those_of_the_file() -> None:
    params = train_params()
    assert vars(params).keys() == TrainParams.model_fields.keys()
    assert vars(params.lora).keys() == LoraParams.model_fields.keys()
    TrainParams.model_validate(vars(params) | {"lora": vars(params.lora)})


def test_made_up_dialogues_are_spread_as_they_say(tmp_path: Path) -> None:
    size = SIZES["1B"]
    rows = make_rows(tmp_path / "rows", size, 40)
    lengths = sorted(
        end - start
        for start, end in zip(
            rows.windows.window_starts[:-1], rows.windows.window_starts[1:], strict=True
        )
    )
    assert 40 <= len(rows) <= 42
    assert lengths[len(lengths) // 2] == pytest.approx(size.max_length / 6, rel=0.2)
    assert 0.02 < sum(n >= size.max_length / 2 for n in lengths) / len(lengths) < 0.1
    assert rows.packing_efficiency > 0.9
