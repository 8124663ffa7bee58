"""How the tests' programs are compiled: they are many and run for milliseconds, so the compiler
optimises little.
"""

from importlib.metadata import version


def on_devices(count: int) -> str:
    """The value of XLA_FLAGS for so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    # A later XLA has no other way, and ends at a flag that it does not know.
    if tuple(int(part) for part in version("jaxlib").split(".")[:2]) < (0, 11):
        flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    return flags
