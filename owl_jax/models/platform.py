"""The platform that a program is traced for: some code depends on it."""

import jax


def platform() -> str:
    """The target platform of the current trace: the abstract mesh's, else JAX's default backend.

    They differ when a program is compiled for a TPU on a machine without one.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
