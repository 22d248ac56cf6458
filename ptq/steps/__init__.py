"""What is done to a model before its weights are rounded, or after, one module each; a module's `STEP` is its class."""
