"""Benchmarks by name: one file a family, each with ``SUITES``, and the published numbers as JSON beside it."""
