"""Writes the ArrayRecord shards of owl_jax.prepare; sources/array_record.py reads them."""
