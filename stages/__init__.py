"""Fine-tune a language model on dialogues: fetch -> prep -> train -> eval."""
