"""Measures what each part of the recipe contributes: runs owl_jax/demo/ablation.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("owl_jax.demo.ablation", run_name="__main__", alter_sys=True)
