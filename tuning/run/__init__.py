"""The common ground of every stage's run: errors, files, inputs, parameters, the process."""
