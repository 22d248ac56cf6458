"""A model as an ONNX graph: read, prepared, its sites, run."""
