"""Every test sees eight CPU devices; the variables must be set before jax is imported."""

import os

from quick_compile import on_devices

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = on_devices(8)
