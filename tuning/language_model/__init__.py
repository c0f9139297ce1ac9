"""A causal language model: loaded, checked, on the device that there is."""
