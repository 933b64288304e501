"""Benchmarks of sparse layers and models against dense PyTorch and other libraries: `python tests/bench`."""
