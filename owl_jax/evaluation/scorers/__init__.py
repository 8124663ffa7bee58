"""Scorers and parsers that several benchmarks share, one kind a file."""
