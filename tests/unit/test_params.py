"""params.yaml is read strictly: what it says is what runs, and every fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuning.run.errors import UserError
from tuning.run.params import load_params

COMMITTED = Path(__file__).parents[2] / "params.yaml"
TEXT = COMMITTED.read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def with_line(key: str, line: str) -> str:
    """The committed text with one key's line replaced."""
    old = [text for text in TEXT.splitlines() if text.strip().startswith(f"{key}:")]
    assert len(old) == 1, f"{key} is not on exactly one line"
    indent = old[0][: len(old[0]) - len(old[0].lstrip())]
    return TEXT.replace(f"{old[0]}\n", f"{indent}{line}\n")


def faults_of(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_params(path)
    return str(caught.value)


def test_the_committed_file_holds_the_seed_recipe() -> None:
    params = load_params(COMMITTED)
    assert params.train.learning_rate == 5e-5
    assert params.train.batch_size == 8
    assert params.encoding.max_length == 512
    assert params.train.epochs == 3
    assert params.train.gradient_accumulation_steps == 4
    assert params.train.mixed_precision == "bf16"
    assert params.data.validation_fraction == 0.2


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("learning_rat: 5.0e-5", "train.learning_rat: unknown key; did you mean learning_rate?"),
        ("zzz: 1", "train.zzz: unknown key; allowed here: learning_rate, optimizer, "),
    ],
)
def test_an_unknown_key_is_refused_with_a_hint(path: Path, line: str, hint: str) -> None:
    message = faults_of(path, with_line("learning_rate", line))
    assert "has 2 fault(s):" in message
    assert hint in message
    assert "train.learning_rate: missing" in message


@pytest.mark.parametrize(
    ("section", "key", "now"),
    [
        ("eval", "max_turns", "score.max_turns"),
        ("eval", "max_dialogues", "data.max_dialogues or score.max_dialogues"),
        ("train", "num_threads", "num_threads"),
        ("data", "bootstrap_resamples", "eval.bootstrap_resamples"),
    ],
)
def test_a_key_in_another_section_than_its_own_is_refused_with_its_place(
    path: Path, section: str, key: str, now: str
) -> None:
    message = faults_of(path, TEXT.replace(f"\n{section}:\n", f"\n{section}:\n  {key}: 3\n"))
    assert message.endswith(f"has 1 fault(s):\n  {section}.{key}: unknown key; did you mean {now}?")


def test_an_unknown_section_is_refused_with_a_hint(path: Path) -> None:
    message = faults_of(path, TEXT.replace("\ntrain:", "\ntraining:"))
    assert "training: unknown key; did you mean train?" in message
    assert "train: missing" in message


def test_faults_in_several_sections_are_reported_at_once(path: Path) -> None:
    text = (
        TEXT.replace("epochs: 3", "epochs: 0")
        .replace("max_length: 512", "max_length: long")
        .replace("validation_fraction: 0.2", "validation_fraction: 1")
        .replace("roles: {}", "roles: {agent: helper}")
    )
    message = faults_of(path, text)
    assert message.startswith(f"{path} has 4 fault(s):\n")
    assert "train.epochs: found 0 (int); input should be greater than or equal to 1" in message
    assert "encoding.max_length: found 'long' (str); input should be a valid integer" in message
    assert "data.validation_fraction: found 1 (int); input should be less than 1" in message
    assert "data.roles.agent: found 'helper' (str); input should be 'system', 'user'" in message


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("hub: {}", "hub: {a: {name: x/y}}", "data.hub.a.revision: missing"),
        ("hub: {}", "hub: {'a b': {name: x/y, revision: z}}", "found 'a b' (str)"),
        (
            "hub: {}",
            "hub: {a: {name: x/y, revision: z, confg: c}}",
            "data.hub.a.confg: unknown key; did you mean config?",
        ),
        (
            "hub: {}",
            "hub: {a: {name: x/y, revision: z, split: test, files: [b]}}",
            "; name files, or config and split, not both",
        ),
        ("sources: {}", "sources: {a: {}}", "data.sources.a.files: missing"),
        ("sources: {}", "sources: {a: {files: []}}", "data.sources.a.files: found [] (list)"),
        (
            "sources: {}",
            "sources: {a: {files: [b], weight: -1}}",
            "data.sources.a.weight: found -1",
        ),
        (
            "sources: {}",
            "sources: {a: {files: [b], columns: {lst: c}}}",
            "data.sources.a.columns.lst: unknown key; did you mean list?",
        ),
    ],
)
def test_a_fault_below_a_name_that_users_give_is_named(
    path: Path, old: str, new: str, fault: str
) -> None:
    assert fault in faults_of(path, TEXT.replace(old, new))


def test_the_layout_is_no_parameter(path: Path) -> None:
    message = faults_of(path, with_line("on_invalid", "on_invalid: error\n  format: auto"))
    assert "data.format" in message


def test_a_repeated_key_is_refused(path: Path) -> None:
    message = faults_of(path, with_line("epochs", "epochs: 3\n  epochs: 30"))
    assert "is not valid YAML" in message
    assert 'duplicate key "epochs"' in message


def test_what_dvc_exp_run_writes_for_1e_5_is_a_number(path: Path) -> None:
    path.write_text(with_line("learning_rate", "learning_rate: 1e-05"), encoding="utf-8")
    assert load_params(path).train.learning_rate == 0.00001


def test_no_is_text(path: Path) -> None:
    path.write_text(with_line("mixed_precision", "mixed_precision: no"), encoding="utf-8")
    assert load_params(path).train.mixed_precision == "no"


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("epochs", "true", "train.epochs: found True (bool)"),
        ("learning_rate", "true", "train.learning_rate: found True (bool)"),
        ("epochs", "3.0", "train.epochs: found 3.0 (float)"),
        ("epochs", "'3'", "train.epochs: found '3' (str)"),
        ("packing", "1", "train.packing: found 1 (int)"),
        ("packing", "yes", "train.packing: found 'yes' (str)"),
        ("max_grad_norm", ".inf", "train.max_grad_norm: found inf (float)"),
        ("weight_decay", ".nan", "train.weight_decay: found nan (float)"),
        ("epochs", "null", "train.epochs: found None (NoneType)"),
        ("seed", "-1", "seed: found -1 (int)"),
    ],
)
def test_no_value_is_converted(path: Path, key: str, value: str, found: str) -> None:
    message = faults_of(path, with_line(key, f"{key}: {value}"))
    assert "has 1 fault(s):" in message
    assert f"  {found}; input should be " in message


def test_null_is_allowed_where_it_means_all_or_none(path: Path) -> None:
    path.write_text(TEXT.replace("max_dialogues: ", "max_dialogues: null  # "), encoding="utf-8")
    params = load_params(path)
    assert params.data.max_dialogues is None
    assert params.score.max_dialogues is None
    assert params.model.revision is None


def test_a_missing_file_says_where_to_run(path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml not found; run from the project's root"):
        load_params(path)


@pytest.mark.parametrize("text", ["train: [1, 2", "train:\n\t- 1\n", "{}: 1", "a: *b"])
def test_what_is_not_yaml_is_refused_with_its_place(path: Path, text: str) -> None:
    message = faults_of(path, text)
    assert f"{path} is not valid YAML" in message
    assert "line " in message


@pytest.mark.parametrize("value", ["2024-13-45", "!!int five", "9" * 5000])
def test_a_value_that_yaml_cannot_read_is_refused(path: Path, value: str) -> None:
    assert str(path) in faults_of(path, with_line("seed", f"seed: {value}"))


@pytest.mark.parametrize(("text", "found"), [("", "None"), ("- 1", r"\[1\]"), ("word", "'word'")])
def test_a_file_without_sections_is_refused(path: Path, text: str, found: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"expected sections such as train:, found {found}"):
        load_params(path)


def test_bytes_that_are_not_utf8_are_refused(path: Path) -> None:
    path.write_bytes(TEXT.encode() + b"# caf\xe9\n")
    with pytest.raises(UserError, match=r"params\.yaml is not valid YAML"):
        load_params(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stopping_patience: null": "early_stopping_patience: 2"}, "set train.eval_steps."),
        ({"quantization: null": "quantization: nf4"}, "are of adapters; set train.lora.rank."),
        ({"use_dora: false": "use_dora: true"}, "are of adapters; set train.lora.rank."),
        ({"rank: null": "rank: 4", "weights: float32": "weights: bfloat16"}, "train.weights is of"),
        (
            {
                "weights: float32": "weights: bfloat16",
                "mixed_precision: bf16": "mixed_precision: fp16",
            },
            "train.weights: bfloat16 needs train.mixed_precision: bf16.",
        ),
        (
            {
                "shard_model: false": "shard_model: true",
                "rank: null": "rank: 4",
                "quantization: null": "quantization: nf4",
            },
            "runtime.shard_model needs train.lora.quantization: null; set one of them.",
        ),
        (
            {
                "shard_model: false": "shard_model: true",
                "optimizer: adamw": "optimizer: adamw_8bit",
            },
            "runtime.shard_model needs train.optimizer: adamw; set one of them.",
        ),
        (
            {"shard_model: false": "shard_model: true", "weights: float32": "weights: bfloat16"},
            "runtime.shard_model needs train.weights: float32; set one of them.",
        ),
        (
            {"also: [english, code]": "also: [code, code]"},
            "score.also: found ['code', 'code'] (list)",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    path: Path, changes: dict[str, str], message: str
) -> None:
    text = TEXT
    for old, new in changes.items():
        assert f" {old}\n" in text
        text = text.replace(f" {old}\n", f" {new}\n")
    assert message in faults_of(path, text)
