"""The demonstration: a toy world, a small model trained on it, and what it learned.

python -m owl_jax.demo trains and asks; python -m owl_jax.ablation leaves parts of the recipe out.
Nothing else in owl_jax imports this package: configs/demo/ plugs its data in as anybody plugs in
data of their own (owl_jax/data/sources/custom.py).
"""
