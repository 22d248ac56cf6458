"""Weight quantization methods: a method is named after its module here; siblings never import each other."""
