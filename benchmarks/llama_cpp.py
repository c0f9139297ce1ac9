"""Does llama.cpp write what transformers writes? Greedy answers to the first turns of dialogues.

``python -m benchmarks.llama_cpp MODEL FILE.gguf VALIDATION``; FILE is the export of MODEL.
transformers runs in float32 on the matrices that the file holds, in float16; llama.cpp rounds what
it multiplies them by to float16 as well, so near ties may differ.
"""

from __future__ import annotations

import argparse
import importlib
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuning.dialogue import read_dialogues


def main() -> None:
    """Print both answers where they differ, and how many are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the released model's folder")
    parser.add_argument("file", type=Path, help="its export")
    parser.add_argument("validation", type=Path, help="dialogues, JSONL")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    llama_cpp = importlib.import_module("xllamacpp")
    settings = llama_cpp.CommonParams()
    settings.model.path = str(args.file)
    settings.n_ctx = 2048
    server = llama_cpp.Server(settings)
    num_equal = 0
    for dialogue in islice(read_dialogues(args.validation), args.prompts):
        chat = [{"role": turn.speaker, "content": turn.utterance} for turn in dialogue.turns[:3]]
        text = str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=args.max_new_tokens)
        ours = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        theirs = complete(server, text, args.max_new_tokens)
        num_equal += ours == theirs
        if ours != theirs:
            print(f"transformers {ours!r}\nllama.cpp    {theirs!r}\n")
    print(f"{num_equal} of {args.prompts} greedy answers are equal")


def complete(server: Any, prompt: str, max_new_tokens: int) -> str:
    """Return the text that llama.cpp writes behind a prompt."""
    answer = server.handle_completions(
        {"prompt": prompt, "n_predict": max_new_tokens, "temperature": 0, "cache_prompt": False}
    )
    return str(answer["choices"][0]["text"])


if __name__ == "__main__":
    main()
