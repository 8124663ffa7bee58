"""python -m owl_jax.data.preview: what the data of a config is, as a page."""
