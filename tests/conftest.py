"""What test files share: a tiny base model, a warm process, and hypothesis without a stopwatch."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.thorough import few_or_all
from tests.warm_process import warm, warm_process

if TYPE_CHECKING:
    from tuning.tokens.speaker_tokens import SpeakerTokens

gc.disable()  # nothing that an import makes is garbage; looking for it takes a fifth of the time

# Torch is loaded in fixtures alone: the process that hands tests to workers needs none.

# A busy machine is not a fault of the code, and a failure must come back on every run.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=few_or_all(100))
settings.load_profile("tests")

TEXTS = (
    "Hello! How are you doing today?",
    "I am fine, thank you. And you?",
    "whats up? im doing good",
    "Not much, just reading a book about the sea.",
    "Oh nice! What is it about?",
    "A captain who looks for a whale, and the whale who looks for him.",
    "haha, I think I know that one",
    "Do you like to read?",
    "I do, but I have no time these days. What do you do for a living?",
    "I am a student. I study music, and I play the piano.",
)

LONGEST = (
    *("test_pipeline", "test_repair", "test_setup", "test_processes", "test_tracking"),
    *("test_fetch", "test_training_failures", "test_ray", "test_export_gguf", "test_publish"),
)
"""Files that take more than twenty seconds of a core."""


def pytest_configure(config: pytest.Config) -> None:
    """Have a warm process, for all workers; it loads nothing before a test asks."""
    if sys.platform == "linux" and "PYTEST_XDIST_WORKER" not in os.environ:
        stack = ExitStack()
        config.add_cleanup(stack.close)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="warm-"))
        stack.enter_context(warm_process(Path(folder)))


def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Start the workers as forks, too: each would load torch and transformers anew."""
    for spec in specs:
        spec.python = warm("python")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: a worker that came to one last would be waited for."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.stem) in LONGEST else 9)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is loaded by now stays
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """On two, matrices as small as in tests take twenty times as long where a core is busy."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for them, which goes at the end with all that killed processes left in it.

    Its name is short, for sockets stand there too; pytest's own folders stay where they are.
    """
    tmp_path_factory.getbasetemp()
    with (
        tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and its tokenizer; read it, never write to it."""
    from tests.tiny_model import make_tiny_gpt2

    folder: Path = tmp_path_factory.mktemp("base") / "tiny-gpt2"
    make_tiny_gpt2(folder, TEXTS)
    return folder


@pytest.fixture(scope="session")
def speakers(tiny_base: Path) -> SpeakerTokens:
    """The template of ``tiny_base`` with two speakers' tokens."""
    from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
    from tuning.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 2)
    return SpeakerTokens(tokenizer)


@pytest.fixture
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flex attention and its gradients without a GPU, by the reference that PyTorch has of it."""
    import torch

    module = "torch.nn.attention.flex_attention"
    monkeypatch.setattr(f"{module}._validate_device", lambda *_tensors: None)
    monkeypatch.setattr(f"{module}._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    with torch.compiler.set_stance("force_eager"):
        yield
