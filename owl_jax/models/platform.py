"""What a program will run on, for the few places whose best form differs by platform."""

import jax


def platform() -> str:
    """What the program being traced will run on: the mesh's devices, else JAX's default.

    A program may be compiled where it will not run, for a TPU that is not there.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
