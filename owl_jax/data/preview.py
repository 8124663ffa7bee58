"""`python -m owl_jax.data.preview`; the code is in owl_jax/preview/__main__.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("owl_jax.preview", run_name="__main__", alter_sys=True)
