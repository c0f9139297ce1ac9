"""Where the base model and the dialogues come from."""
