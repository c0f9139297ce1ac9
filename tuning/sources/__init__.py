"""The sources of the base model and of the dialogues."""
