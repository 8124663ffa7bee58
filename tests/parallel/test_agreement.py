"""An error of one process is an error of all: two real processes."""

import socket

import pytest
from forked import Forked

from owl_jax.errors import UserError
from owl_jax.parallel.agreement import raise_together

SCRIPT = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
number = int(sys.argv[2])
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=number)
from owl_jax.errors import UserError
from owl_jax.parallel.agreement import raise_together
raise_together(None, "nobody has one")
try:
    raise_together(UserError("mine") if number == 1 else None, "process {process} has one")
except UserError as error:
    print(error)
"""


def test_both_end_and_the_one_says_why():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [Forked(["-c", SCRIPT, address, str(number)]) for number in range(2)]
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = [out.splitlines()[-1:] for out, _ in results]
    assert said == [["process 1 has one"], ["mine"]], results


def test_a_process_alone_raises_its_own():
    raise_together(None, "nobody has one")
    with pytest.raises(UserError, match=r"^mine$"):
        raise_together(UserError("mine"), "nobody has one")
