"""The measures: what one model is asked on the evaluation set, a file for each."""
