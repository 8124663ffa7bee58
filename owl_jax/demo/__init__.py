"""The demonstration: a toy world, a small model trained on it, and its evaluation.

python -m owl_jax.demo trains and evaluates; python -m owl_jax.ablation trains without parts of the
recipe. Nothing else in owl_jax imports this package; configs/demo/ uses its data as a custom source
(owl_jax/data/sources/custom.py).
"""
