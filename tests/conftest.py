"""Every test sees eight CPU devices; the variables must be set before jax is imported.

The tests' programs are many and run for milliseconds, so the compiler is told not to try hard.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false"
)
