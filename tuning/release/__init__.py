"""The published model's card and receipt."""
