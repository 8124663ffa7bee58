"""What a server gives back to the system."""

import forked

FREE_IN_ANY_ORDER = """
import re
from owl_jax.serving.memory import return_large_buffers

MIB = 1 << 20

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

assert return_large_buffers()
before = resident()
first = b"a" * (30 * MIB)
del first  # by default, buffers of this size come from the heap from now on
kept = []
for _ in range(4):
    large = b"a" * (20 * MIB)
    kept.append(b"a" * 100_000)  # behind it on the heap
    del large
print(resident() - before)
"""


def test_large_buffers_are_returned():
    result = forked.run("-c", FREE_IN_ANY_ORDER)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 5
