"""Readable float64 NumPy twins of the C core: documentation, and the tests' oracle."""
