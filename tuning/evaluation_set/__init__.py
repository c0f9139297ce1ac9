"""The evaluation set: the same text and places for every model that is measured."""
