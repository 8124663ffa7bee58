"""python -m owl_jax.data.preview: an HTML page that shows the data of a config."""
