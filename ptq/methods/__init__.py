"""Algorithms that quantize a weight, one module each; a module's `METHOD` is its class, a `ptq.method.Method`."""
