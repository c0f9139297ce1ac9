"""A fine-tuned model behind ``transformers serve``, asked as docs/using-the-model.md says.

The commands and the snippet are read out of the document; only the port is another. A tiny model
has learned two dialogues by heart, so what it must answer is known.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from tests.tiny_model import SMALL_TRAIN, make_tiny_llama
from tests.windows import write_windows
from tuning.dialogue import Dialogue, Turn
from tuning.encoding.cutting import cut_windows
from tuning.language_model.device import Device
from tuning.release.transformers_serve import feed
from tuning.tokens.speaker_tokens import END_OF_TURN
from tuning.tokens.templates import prepare_tokenizer, template_of
from tuning.tokens.tokenizer import special_ids
from tuning.training.loss import PackedLoss
from tuning.training.publishing import publish
from tuning.training.rows import PackedRows
from tuning.training.start import load_for_training
from tuning.training.trainer import fine_tune

if TYPE_CHECKING:
    from openai import OpenAI

PAGE = (Path(__file__).parents[2] / "docs/using-the-model.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## transformers serve and the openai client\n")[2].partition("\n## ")[0]
SERVE, CHAT = SECTION.partition("```\n")[2].partition("```")[0].splitlines()
SNIPPET = SECTION.partition("```python\n")[2].partition("```")[0]
MODEL, PORT = "models/finetuned", "8000"

SPEAKERS = ("user", "assistant", "user", "assistant")
TALKS = (
    (
        re.findall(r'"content": "(.+?)"', SNIPPET)[0],
        "It was great! I was at the sea.",
        "Was it cold?",
        "Yes, but I like it.",
    ),
    ("What do you do?", "I play the piano.", "Do you play every day?", "No, I have no time."),
)
MAX_LENGTH = 64


def teach(folder: Path) -> None:
    """Train ``folder / MODEL`` until it knows ``TALKS``."""
    base, extended, windows = (folder / name for name in ("base", "tokenizer", "windows"))
    make_tiny_llama(base, [text for talk in TALKS for text in talk])
    template = prepare_tokenizer(base, extended, 3)
    windows.mkdir()
    dialogues = [Dialogue(talk[0], tuple(map(Turn, SPEAKERS, talk))) for talk in TALKS]
    trained = [True] * len(SPEAKERS)
    renderings = [one for each in dialogues for one in template.read(each).renderings(trained)]
    cuts = [cut_windows(one, max_length=MAX_LENGTH, min_context=1) for one in renderings]
    write_windows(windows, [window for cut in cuts for window in cut])
    pad = template.tokenizer.pad_token_id
    device = Device(kind="cpu", precision="no", compiled=False, notes=())
    set_seed(7)
    model = load_for_training(base, extended, MAX_LENGTH)
    fine_tune(
        PackedLoss(model, device),
        PackedRows(windows, max_length=MAX_LENGTH, packing=False, pad_token_id=pad),
        SMALL_TRAIN.model_copy(update={"learning_rate": 2e-2, "max_steps": 100}),
        seed=7,
        device=device,
        checkpoints=None,
        checkpoint_minutes=60,
    )
    publish(model, extended, folder / MODEL)


@dataclass(frozen=True)
class Served:
    """A server, and where its user stands."""

    folder: Path
    port: str

    def run(self, *command: str, said: str = "") -> str:
        """What a command of the user prints."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=environment(self.folder),
            input=said,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout


def environment(folder: Path) -> dict[str, str]:
    """Nothing of this machine's, and no hub: there is none at the discard port."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("serve")
    teach(folder)
    before = files(folder)
    log = folder.with_name("serve.log")
    with log.open("wb") as output:
        server = subprocess.Popen(
            shlex.split(SERVE.replace(PORT, "0")),
            cwd=folder,
            env=environment(folder) | {"HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 600
        while (found := re.search(r"running on http://\S+:(\d+)", log.read_text())) is None:
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield Served(folder, found[1])
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
        with pytest.raises(ProcessLookupError):
            os.killpg(server.pid, 0)
        assert files(folder) == before
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def client_of(served: Served) -> OpenAI:
    from openai import OpenAI  # takes a second, which workers that do not run these tests save

    return OpenAI(base_url=f"http://localhost:{served.port}/v1", api_key="none")


def test_the_snippet_prints_the_answer(served: Served) -> None:
    answer = served.run("python", "-c", SNIPPET.replace(PORT, served.port))
    assert answer == TALKS[0][1]


@pytest.mark.parametrize("num_said", [1, 3])
@pytest.mark.parametrize("talk", TALKS)
def test_what_is_streamed_is_what_generate_writes(
    served: Served, talk: tuple[str, ...], num_said: int
) -> None:
    """Greedily; it ends with its turn, of which nothing is to be seen."""
    chat: list[Any] = [
        {"role": speaker, "content": text}
        for speaker, text in zip(SPEAKERS, talk[:num_said], strict=False)
    ]
    with client_of(served) as client:
        *events, last = client.chat.completions.create(
            model=MODEL, messages=chat, stream=True, temperature=0, max_tokens=24
        )
    chunks = [event.choices[0].delta.content or "" for event in events]
    assert sum(map(bool, chunks)) > 1

    tokenizer: Any = AutoTokenizer.from_pretrained(served.folder / MODEL)
    model: Any = AutoModelForCausalLM.from_pretrained(served.folder / MODEL)
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    sequence = model.generate(**inputs, do_sample=False, max_new_tokens=24)[0].tolist()
    written = sequence[inputs["input_ids"].shape[1] :]
    assert written[-1] == tokenizer.convert_tokens_to_ids(END_OF_TURN)
    assert not set(written[:-1]) & set(special_ids(tokenizer))
    assert "".join(chunks) == tokenizer.decode(written[:-1]) == talk[num_said]
    assert last.choices[0].finish_reason == "stop"
    assert last.usage is not None and last.usage.completion_tokens == len(written)


def test_the_server_is_fed_the_tokens_that_we_say(served: Served) -> None:
    """For a chat with a system text; and what it answers is what follows them."""
    chat: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": TALKS[1][0]},
    ]
    turns = tuple(Turn(message["role"], message["content"]) for message in chat)
    asked = Dialogue("", (*turns, Turn("assistant", "")))
    ids = template_of(served.folder / MODEL).read(asked).after([0, 1], 2).prompt
    assert feed(served.folder / MODEL, [{"messages": chat}]) == [ids]
    with client_of(served) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=chat, temperature=0, max_tokens=8
        )
    assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)
    model: Any = AutoModelForCausalLM.from_pretrained(served.folder / MODEL)
    sequence = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=8)[0].tolist()
    tokenizer: Any = AutoTokenizer.from_pretrained(served.folder / MODEL)
    written = tokenizer.decode(sequence[len(ids) :], skip_special_tokens=True)
    assert written and answer.choices[0].message.content == written


def test_transformers_chat_answers_a_line_and_exits(served: Served) -> None:
    command = shlex.split(CHAT.replace(PORT, served.port))
    said = served.run(*command, "do_sample=false", said=f"{TALKS[0][0]}\n!exit\n")
    _, _, answer = said.partition(f"<{MODEL}>:")
    assert answer.split("\n")[1].strip() == TALKS[0][1]
    assert "<|" not in said


def test_it_is_reached_from_this_machine_alone(served: Served) -> None:
    """A server of all interfaces would answer at this address, too."""
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", int(served.port))) == errno.ECONNREFUSED
