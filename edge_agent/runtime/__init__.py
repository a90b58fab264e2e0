"""Runs the graphs of a bundle: ONNX Runtime sessions, caches, decoding."""
