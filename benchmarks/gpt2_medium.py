"""GPT-2 Medium's exact architecture with random weights and a tokenizer learned from dialogues.

    python -m benchmarks.gpt2_medium --dialogues data/prepared/train.jsonl --out FOLDER

For measuring speed and memory where the hub cannot be reached: 354.8 million parameters, a
byte-level BPE. Where the text is too small for 50,257 tokens, the last rows of the vocabulary are
left without one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Config, GPT2LMHeadModel

from tuning.dialogue import read_dialogues
from tuning.run.process import die_with_parent

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 50_257


def main() -> None:
    """Learn the tokenizer, draw the weights, write a folder as fetch does."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dialogues", type=Path, required=True, help="as prep writes them, JSONL")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    args = parser.parse_args()
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bpe.decoder = ByteLevelDecoder()
    bpe.train_from_iterator(
        (turn.utterance for d in read_dialogues(args.dialogues) for turn in d.turns),
        BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    end = bpe.token_to_id(END_OF_TEXT)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_layer=24, n_embd=1024, n_head=16, n_positions=1024, vocab_size=VOCAB_SIZE,
            bos_token_id=end, eos_token_id=end,
        )
    )  # fmt: skip
    model.save_pretrained(args.out)
    bpe.save(str(args.out / "tokenizer.json"))
    (args.out / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    print(f"{model.num_parameters():,} parameters, {bpe.get_vocab_size():,} tokens")


if __name__ == "__main__":
    die_with_parent()
    main()
