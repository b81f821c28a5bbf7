"""Operators of our own in place of ONNX Runtime's, where a processor is made for them; in C, in `native`."""
