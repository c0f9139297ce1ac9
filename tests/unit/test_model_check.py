"""A stranger's model is refused by one message before it is built, or taken without other effects.

What is done to it here, people have met: damaged and half-converted models, settings that fetch
code or kernels, names of files that lead out of the folder, sizes that never end.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from stages.fetch import fetch_base_model
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama
from tuning.language_model.loading import load_plain_model
from tuning.run.errors import UserError
from tuning.sources.model_check import NOT_OF_THE_MODEL, check_model

TEXTS = ("hello, how are you?", "fine, thank you, and you?")
CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SHARD, INDEX = "model-00001-of-00001.safetensors", "model.safetensors.index.json"
DEEP = "[" * 100_000
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_gpt2(folder, TEXTS)
    return folder


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    shutil.copytree(tiny, folder)
    return folder


def setting(file: str, **settings: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_bytes()) if path.exists() else {}
        path.write_text(json.dumps(content | settings), encoding="utf-8")

    return change


def text(file: str, content: str) -> Change:
    return lambda folder: (folder / file).write_text(content, encoding="utf-8")


def weights(edit: Callable[[dict[str, Tensor]], object]) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def without(name: str) -> Change:
    return weights(lambda tensors: tensors.pop(name))


def with_tensor(name: str, *shape: int) -> Change:
    return weights(lambda tensors: tensors.update({name: torch.ones(shape)}))


def index(content: object) -> Change:
    """One shard, and an index of our own."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / SHARD)
        text(INDEX, content if isinstance(content, str) else json.dumps(content))(folder)

    return change


def shard_named(name: object) -> Change:
    return index({"metadata": {}, "weight_map": {"transformer.wte.weight": name}})


def added_token(folder: Path) -> None:
    """As people do who give a tokenizer a padding token and forget the model."""
    text("added_tokens.json", '{"<pad>": 999}')(folder)


OTHER_WEIGHTS = "its weights are not those of its config.json"
REFUSED: dict[str, tuple[Change, str]] = {
    "a weight missing": (
        without("transformer.h.0.ln_1.weight"),
        f"{OTHER_WEIGHTS}: transformer.h.0.ln_1.weight missing",
    ),
    "embeddings missing": (without("transformer.wte.weight"), "missing"),
    "a weight of a layer that is not": (
        with_tensor("transformer.h.7.ln_1.weight", 8),
        f"{OTHER_WEIGHTS}: transformer.h.7.ln_1.weight unexpected",
    ),
    "a weight of another shape": (
        with_tensor("transformer.ln_f.weight", 9),
        "transformer.ln_f.weight has the shape [9], wanted [8]",
    ),
    "a head that is not there": (
        setting(CONFIG, tie_word_embeddings=False),
        "lm_head.weight missing",
    ),
    "a layer more": (setting(CONFIG, n_layer=3), "11 more missing"),
    "a layer fewer": (setting(CONFIG, n_layer=1), "10 more unexpected"),
    "layers below none": (setting(CONFIG, n_layer=-1), "num_hidden_layers is -1"),
    "no layers": (setting(CONFIG, n_layer=0), "num_hidden_layers is 0"),
    "layers without end": (setting(CONFIG, n_layer=10**7), "n_layer: 10000000"),
    "layers without end in a section": (
        setting(CONFIG, text_config={"num_hidden_layers": 10**12}),
        "num_hidden_layers: 1000000000000",
    ),
    "labels without end": (setting(CONFIG, num_labels=10**9), "num_labels: 1000000000"),
    "layers as text": (setting(CONFIG, n_layer="2"), "expected int, got str"),
    "heads that do not divide": (setting(CONFIG, n_head=3), "divisible by num_heads"),
    "no heads": (setting(CONFIG, n_head=0), "num_attention_heads is 0"),
    "heads below none": (setting(CONFIG, n_head=-2), "num_attention_heads is -2"),
    "another width": (setting(CONFIG, n_embd=16), "has the shape [24], wanted [48]"),
    "a width below none": (setting(CONFIG, n_embd=-8), "negative dimension"),
    "another vocabulary": (setting(CONFIG, vocab_size=10), "transformer.wte.weight has the shape"),
    "a vocabulary without end": (setting(CONFIG, vocab_size=10**12), "wanted [1000000000000, 8]"),
    "fewer positions": (setting(CONFIG, n_positions=5), "transformer.wpe.weight has the shape"),
    "dropout of seven": (setting(CONFIG, resid_pdrop=7), "probability has to be between 0 and 1"),
    "an activation that is not": (setting(CONFIG, activation_function="nope"), "nope"),
    "an epsilon of null": (setting(CONFIG, layer_norm_epsilon=None), "expected float"),
    "a dtype that is a function": (setting(CONFIG, dtype="load"), "cannot load it"),
    "a method as a setting": (setting(CONFIG, to_dict=1), "cannot load it"),
    "cross attention": (setting(CONFIG, add_cross_attention=True), "crossattention"),
    "an unknown kind": (setting(CONFIG, model_type="own"), "code that comes with a model"),
    "a kind that is a list": (setting(CONFIG, model_type=[]), "([])"),
    "quantisation as a list": (setting(CONFIG, quantization_config=[]), "cannot load it"),
    "labels as text": (setting(CONFIG, id2label="x"), "cannot load it"),
    "config: a list": (text(CONFIG, "[]"), "config.json holds no JSON object"),
    "config: null": (text(CONFIG, "null"), "config.json holds no JSON object"),
    "config: broken": (text(CONFIG, "{"), "config.json is not JSON"),
    "config: deep": (text(CONFIG, DEEP), "config.json is not JSON"),
    "config: no text": (
        lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\x00"),
        "config.json is not JSON",
    ),
    "config: a number of 5,000 digits": (
        text(CONFIG, '{"n_layer": ' + "9" * 5000 + "}"),
        "config.json is not JSON",
    ),
    "index: a list": (index([]), f"{INDEX} holds no JSON object"),
    "index: broken": (index("{"), f"{INDEX} is not JSON"),
    "index: deep": (index(DEEP), f"{INDEX} is not JSON"),
    "index: no map": (index({"metadata": {}}), "lacks a weight_map"),
    "index: an empty map": (index({"metadata": {}, "weight_map": {}}), "lacks a weight_map"),
    "index: a map that is a list": (index({"metadata": {}, "weight_map": [1]}), "lacks"),
    "index: no metadata": (index({"weight_map": {"a": SHARD}}), "or metadata"),
    "a shard above the folder": (shard_named("../model-1.safetensors"), "names '../model-1"),
    "a shard whose name has a way out": (
        shard_named("model-1/../../x-of-1.safetensors"),
        "of files beside it",
    ),
    "a shard anywhere": (shard_named("/etc/passwd"), "names '/etc/passwd'"),
    "a shard that is null": (shard_named(None), "names None"),
    "a shard that is not there": (shard_named("model-00009-of-00009.safetensors"), "is missing"),
    "generation: broken": (text(GENERATION, "{"), f"{GENERATION} is not JSON"),
    "generation: a list": (text(GENERATION, "[]"), f"{GENERATION} holds no JSON object"),
    "generation: three answers of one": (
        setting(GENERATION, num_return_sequences=3),
        "num_return_sequences",
    ),
    "generation: an unknown cache": (setting(GENERATION, cache_implementation="x"), "cache_impl"),
    "generation: an end that is text": (setting(GENERATION, eos_token_id="x"), "'x', which is no"),
    "generation: an end that is a list": (setting(GENERATION, eos_token_id=[[1]]), "[1], which"),
    "generation: an end without a row": (setting(GENERATION, eos_token_id=10**6), "which is no"),
    "tokenizer: broken": (text(TOKENIZER, "{"), f"{TOKENIZER} is not JSON"),
    "tokenizer: a list": (text(TOKENIZER, "[]"), f"{TOKENIZER} holds no JSON object"),
    "tokenizer: deep": (text(TOKENIZER, DEEP), f"{TOKENIZER} is not JSON"),
    "tokenizer: its settings a list": (text(TOKENIZER_CONFIG, "[]"), "holds no JSON object"),
    "tokenizer: a class that is a number": (
        setting(TOKENIZER_CONFIG, tokenizer_class=5),
        "cannot load it",
    ),
    "tokenizer: a start that is a number": (setting(TOKENIZER_CONFIG, bos_token=5), "bos_token"),
    "tokenizer: tokens that are none": (
        setting(TOKENIZER_CONFIG, added_tokens_decoder={"1": 3}),
        "cannot load it",
    ),
    "tokenizer: a template that is a number": (
        setting(TOKENIZER_CONFIG, chat_template=5),
        "its chat template is no text",
    ),
    "tokenizer: no template by default": (
        setting(TOKENIZER_CONFIG, chat_template={"a": "b"}),
        "no default",
    ),
    "tokenizer: a list of special tokens": (text("special_tokens_map.json", "[1]"), "no JSON obj"),
    "a token without a row": (added_token, "the token '<pad>' with id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_at_once(name: str, source: Path, tmp_path: Path) -> None:
    change, words = REFUSED[name]
    change(source)
    start = time.monotonic()
    with pytest.raises(UserError, match=f"model {source} cannot be used: ") as error:
        fetch_base_model(str(source), None, tmp_path / "base")
    assert time.monotonic() - start < 20
    assert words in str(error.value)
    assert len(str(error.value)) < 1000 + len(str(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def save_kind(folder: Path, kind: str, **own: Any) -> None:
    """Save a tiny model of a kind, with a tokenizer smaller than the embeddings."""
    make_tiny_llama(folder, TEXTS)
    config = AutoConfig.for_model(
        kind,
        num_hidden_layers=2,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        **own,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def qwen(folder: Path) -> None:
    """Tied, with norms of queries and keys."""
    save_kind(folder, "qwen3", head_dim=8, tie_word_embeddings=True)


def mixture(folder: Path) -> None:
    """Its experts are files' single tensors, which transformers merges."""
    save_kind(folder, "mixtral", num_local_experts=3)


def with_sinks(folder: Path) -> None:
    """Attention that PyTorch has no function for."""
    save_kind(folder, "gpt_oss", head_dim=8, num_local_experts=3, num_experts_per_tok=2)


def with_buffers(folder: Path) -> None:
    """Buffers that GPT-2's own repository holds, and no prefix."""

    def as_published(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 4, 4) for layer in range(2)}

    make_tiny_gpt2(folder, TEXTS)
    weights(as_published)(folder)


def with_tied_head(folder: Path) -> None:
    """A head beside the embeddings that it is tied to."""
    make_tiny_gpt2(folder, TEXTS)

    def tie(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()

    weights(tie)(folder)


SOUND: dict[str, Callable[[Path], None]] = {
    "GPT-2": lambda folder: make_tiny_gpt2(folder, TEXTS),
    "GPT-2 with buffers": with_buffers,
    "GPT-2 with its tied head": with_tied_head,
    "Llama": lambda folder: make_tiny_llama(folder, TEXTS),
    "Qwen": qwen,
    "mixture of experts": mixture,
    "GPT-OSS": with_sinks,
}


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_model_is_taken_as_it_is(name: str, sharded: bool, tmp_path: Path) -> None:
    source, base = tmp_path / "source", tmp_path / "base"
    SOUND[name](source)
    if sharded:
        model = AutoModelForCausalLM.from_pretrained(source)
        (source / "model.safetensors").unlink()
        model.save_pretrained(source, max_shard_size="20KB")
        assert len(list(source.glob("model-*"))) > 1
    fetch_base_model(str(source), None, base)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }


def test_settings_that_are_not_the_model_s_have_no_effect(
    tiny: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by itself would fetch a kernel or code, read another file, or break the forward pass."""
    config = {
        "_attn_implementation": "someone/kernel",
        "_experts_implementation": "someone/kernel",
        "attn_implementation": "someone/kernel",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "someone/own--own.Model"},
        "configuration_files": ["../../elsewhere/config.4.0.0.json"],
        "distributed_config": {"tp_size": 2},
        "experts_implementation": "someone/kernel",
        "fusion_config": {"patch_embeddings": True},
        "output_attentions": True,
        "output_hidden_states": True,
        "return_dict": False,
        "transformers_weights": "../elsewhere/model.safetensors",
    }
    tokenizer = {
        "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]},
        "fast_tokenizer_files": ["../../elsewhere/tokenizer.4.0.json"],
        "merges_file": "/nowhere/merges.txt",
        "tokenizer_file": "/nowhere/tokenizer.json",
        "vocab_file": "/nowhere/vocab.json",
    }
    assert config.keys() | tokenizer.keys() == NOT_OF_THE_MODEL.keys()
    setting(CONFIG, **config)(source)
    setting(TOKENIZER_CONFIG, **tokenizer)(source)
    fetch_base_model(str(source), None, tmp_path / "base")
    for file in (CONFIG, TOKENIZER_CONFIG):
        assert json.loads((tmp_path / "base" / file).read_bytes()) == json.loads(
            (tiny / file).read_bytes()
        )
    assert capsys.readouterr().out.splitlines() == [
        f"fetch: {file}: {key} left out, for it says nothing of the model itself"
        for file, settings in ((CONFIG, config), (TOKENIZER_CONFIG, tokenizer))
        for key in settings
    ]
    ids = torch.arange(10)[None]
    with torch.no_grad():
        found, wanted = (load_plain_model(path)(ids).logits for path in (tmp_path / "base", tiny))
    assert found.equal(wanted)


def test_settings_at_their_defaults_leave_the_file_as_it_is(source: Path, tmp_path: Path) -> None:
    setting(CONFIG, return_dict=True, output_attentions=False, attn_implementation=None)(source)
    fetch_base_model(str(source), None, tmp_path / "base")
    assert (tmp_path / "base" / CONFIG).read_bytes() == (source / CONFIG).read_bytes()


def test_eight_billion_weights_are_checked_without_being_read(tmp_path: Path) -> None:
    """All are holes in the file; read, they would take 16 GB of memory, drawn at random 32 GB."""
    make_tiny_llama(tmp_path, TEXTS)
    config = LlamaConfig(
        num_hidden_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    header: dict[str, object] = {}
    end = 0
    for name, tensor in model.state_dict().items():
        begin, end = end, end + 2 * tensor.numel()
        offsets = [begin, end]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
    encoded = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    start = time.monotonic()
    check_model("large", tmp_path)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("file", ["model.safetensors", TOKENIZER])
def test_a_link_out_of_a_local_folder_is_refused(file: str, source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (source / file).rename(outside)
    (source / file).symlink_to(outside)
    with pytest.raises(UserError, match=f"{file} is a link that leads out of the folder, to"):
        fetch_base_model(str(source), None, tmp_path / "base")
    assert not (tmp_path / "base").exists()
    (source / file).unlink()
    shutil.copyfile(outside, source / file)  # as the message says
    fetch_base_model(str(source), None, tmp_path / "base")


@pytest.mark.parametrize("file", [CONFIG, "model.safetensors", TOKENIZER])
def test_a_pipe_in_a_local_folder_is_no_file_of_the_model(
    file: str, source: Path, tmp_path: Path
) -> None:
    (source / file).unlink()
    os.mkfifo(source / file)
    with pytest.raises(UserError, match="it has no "):
        fetch_base_model(str(source), None, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_links_of_the_hub_s_cache_are_followed(source: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0a1b"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    fetch_base_model(str(snapshot), None, tmp_path / "base")
    assert not any(path.is_symlink() for path in (tmp_path / "base").iterdir())
