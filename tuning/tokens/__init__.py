"""Tokenizers and templates: how turns become token ids, and ids text."""
