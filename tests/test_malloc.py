"""What a process gives back to the system, and what it keeps."""

import forked

FREE_IN_ANY_ORDER = """
import re
from owl_jax.malloc import return_large_buffers

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


KEPT = """
import re
from owl_jax.malloc import keep_large_buffers

def faults():
    return int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[7])

def use():
    counts = []
    for _ in range(3):
        before = faults()
        large = b"a" * (100 << 20)
        del large
        counts.append(faults() - before)
    return counts

mapped = min(use())
assert keep_large_buffers()
print(max(use()[1:]) / mapped)
"""


def test_large_buffers_are_returned():
    result = forked.run("-c", FREE_IN_ANY_ORDER)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 5


def test_large_buffers_are_kept():
    result = forked.run("-c", KEPT)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.2  # page faults, of those that a new mapping takes
