"""What the run of every stage rests on: errors, files, inputs, parameters, the process."""
