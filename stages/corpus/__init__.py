"""Text only: files to dialogues, duplicates, the split, the ledger. No torch, no transformers."""
