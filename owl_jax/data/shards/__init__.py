"""ArrayRecord shards as owl_jax.prepare writes them; sources/array_record.py reads them."""
