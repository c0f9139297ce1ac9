"""What the models are measured on: the same text and places for all of them."""
