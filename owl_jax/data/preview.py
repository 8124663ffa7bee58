"""Shows the data of a config; the command is owl_jax/preview/__main__.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("owl_jax.preview", run_name="__main__", alter_sys=True)
