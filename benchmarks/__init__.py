"""Measurements against other exporters and runtimes: `python -m benchmarks.convert`, `python -m benchmarks.onnx`."""
