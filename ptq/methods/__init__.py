"""Weight quantization methods, one module each; siblings never import each other."""
