"""Dialogues to windows of token ids, each checked; and the pages that show them."""
