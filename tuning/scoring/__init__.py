"""The measures that are taken of a model on the evaluation set, a file for each."""
