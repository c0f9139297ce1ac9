"""Text to token ids: speaker tokens, windows of whole turns, packed rows, the dataset."""
