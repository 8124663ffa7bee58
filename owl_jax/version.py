"""The version of owl_jax. setup.py reads this file without importing it."""

__version__ = "0.1.0"
