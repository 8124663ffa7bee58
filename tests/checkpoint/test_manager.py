import os
import shutil
import signal
import time

import forked
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from owl_jax.checkpoint.manager import Checkpoints, DamagedCheckpoint
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh


def make_state(step=0, width=8):
    params = {"lora": {"layers": {"a": jnp.arange(16.0 * width).reshape(2, 8, width) + step}}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "step": jnp.int32(step),
        "key": jax.random.key(step),
    }


def abstract(state):
    return jax.eval_shape(lambda: state)


def make_data():
    return iter(grain.MapDataset.range(100).seed(3).shuffle().to_iter_dataset().batch(4))


def assert_trees_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def checkpoints(tmp_path):
    manager = Checkpoints(tmp_path / "checkpoints", keep=2, every=2)
    yield manager
    manager.close()


def test_saves_at_multiples_and_keeps_the_newest(checkpoints, tmp_path):
    assert checkpoints.latest() is None
    saved = [checkpoints.save(step, make_state(step), None, {}) for step in range(1, 8)]
    assert saved == [False, True, False, True, False, True, False]
    assert checkpoints.save(7, make_state(7), None, {}, force=True)
    assert not checkpoints.save(7, make_state(7), None, {}, force=True)
    checkpoints.wait()
    assert checkpoints.latest() == 7
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]


def test_another_process_restores_state_meta_and_data_position(checkpoints, tmp_path):
    data = make_data()
    for _ in range(3):
        next(data)
    checkpoints.save(2, make_state(2), data, {"fingerprint": "f", "stage": "demo"})
    checkpoints.wait()
    following = [next(data) for _ in range(3)]

    again = Checkpoints(tmp_path / "checkpoints", keep=2, every=2)
    restored_data = make_data()
    state, meta = again.restore(
        again.latest(), abstract(make_state()), restored_data, {"fingerprint": "f"}
    )
    again.close()
    assert_trees_equal(state, make_state(2))
    assert meta == {"fingerprint": "f", "stage": "demo"}
    np.testing.assert_array_equal([next(restored_data) for _ in range(3)], following)


def test_a_relative_directory_is_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = Checkpoints("runs/checkpoints")
    manager.save(1, make_state(1), None, {})
    manager.close()
    assert (tmp_path / "runs/checkpoints/1").is_dir()


def test_restores_onto_another_mesh(checkpoints):
    def placed(state, sizes):
        mesh = make_mesh(*sizes)
        spec = NamedSharding(mesh, P(None, "fsdp", "tensor"))
        whole = NamedSharding(mesh, P())
        return jax.tree.map(lambda x: spec if x.ndim == 3 else whole, state)

    state = make_state(2)
    checkpoints.save(2, jax.device_put(state, placed(state, (2, 4, 1))), None, {})
    checkpoints.wait()
    shardings = placed(state, (1, 2, 4))
    target = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract(state), shardings
    )
    restored, _ = checkpoints.restore(2, target, None)
    assert_trees_equal(restored, state)
    a = restored["params"]["lora"]["layers"]["a"]
    assert a.sharding.is_equivalent_to(shardings["params"]["lora"]["layers"]["a"], a.ndim)


def test_a_checkpoint_of_another_model_is_refused(checkpoints):
    checkpoints.save(2, make_state(2), None, {"fingerprint": "sha256:aa", "workers": 2})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"another model.*'sha256:aa'.*'sha256:bb' is expected"):
        checkpoints.restore(2, abstract(make_state()), None, {"fingerprint": "sha256:bb"})
    with pytest.raises(UserError, match=r"its host is None, but 1 is expected"):
        checkpoints.restore(2, abstract(make_state()), None, {"workers": 2, "host": 1})


def test_a_tree_that_differs_is_refused(checkpoints):
    checkpoints.save(2, make_state(2), None, {})
    checkpoints.wait()
    with pytest.raises(UserError) as error:
        checkpoints.restore(2, abstract(make_state(width=4)), None)
    assert "3 arrays differ" in str(error.value)
    assert "params/lora/layers/a is float32[2, 8, 8] in the checkpoint and float32[2, 8, 4]" in str(
        error.value
    )

    other = make_state()
    other["params"]["connector"] = jnp.zeros((3,), jnp.bfloat16)
    with pytest.raises(
        UserError, match=r"params/connector is nothing in the .* and bfloat16\[3\] here"
    ):
        checkpoints.restore(2, abstract(other), None)

    lower = make_state()
    lower["params"] = jax.tree.map(lambda x: x.astype(jnp.bfloat16), lower["params"])
    with pytest.raises(UserError, match=r"1 arrays differ: .*float32.*bfloat16"):
        checkpoints.restore(2, abstract(lower), None)


def test_what_is_not_there_is_named(checkpoints):
    checkpoints.save(2, make_state(2), None, {})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"/5 does not exist.*there are: 2"):
        checkpoints.restore(5, abstract(make_state()), None)
    with pytest.raises(UserError, match="no position in the data"):
        checkpoints.restore(2, abstract(make_state()), make_data())


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(directory):
    path = largest_file(directory / "state")
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(directory):
    path = largest_file(directory / "state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget_the_state(directory):
    shutil.rmtree(directory / "state")


def cut_meta(directory):
    (directory / "meta" / "metadata").write_text('{"model": "d')


def cut_position(directory):
    next((directory / "data").glob("process_*")).write_text("")


def forget_the_position(directory):
    shutil.rmtree(directory / "data")


def forget_a_file(directory):
    next((directory / "data").glob("process_*")).unlink()


def exchange_the_state(directory):
    """Whole and readable, but of another step."""
    shutil.rmtree(directory / "state")
    shutil.copytree(directory.with_name("2") / "state", directory / "state")


DAMAGES = [
    cut,
    flip_a_bit,
    forget_the_state,
    cut_meta,
    cut_position,
    forget_the_position,
    forget_a_file,
    exchange_the_state,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_moved_if_asked(checkpoints, tmp_path, damage):
    for step in (2, 4):
        checkpoints.save(step, make_state(step), make_data(), {"model": "demo"})
    checkpoints.wait()
    damage(tmp_path / "checkpoints" / "4")

    found = (abstract(make_state()), make_data(), {"model": "demo"})
    with pytest.raises(DamagedCheckpoint) as error:
        checkpoints.resume(*found)
    message = str(error.value)
    assert message.startswith(f"checkpoint {tmp_path}/checkpoints/4 is damaged: ")
    assert "\n" not in message
    assert "resume from the checkpoint of step 2, add --config.skip_damaged=True" in message
    assert checkpoints.latest() == 4

    told = []
    step, state = checkpoints.resume(*found, skip_damaged=True, tell=told.append)
    assert step == 2
    assert_trees_equal(state, make_state(2))
    (line,) = told
    assert line.endswith(f"moved to {tmp_path}/checkpoints-damaged/4")
    assert (tmp_path / "checkpoints-damaged" / "4").is_dir()
    # Its place is free again.
    assert checkpoints.save(4, make_state(4), make_data(), {"model": "demo"})
    step, state = checkpoints.resume(*found)
    assert step == 4
    assert_trees_equal(state, make_state(4))


def test_the_only_checkpoint_is_never_moved(checkpoints, tmp_path):
    assert checkpoints.resume(abstract(make_state()), None) is None
    checkpoints.save(2, make_state(2), None, {})
    checkpoints.wait()
    cut(tmp_path / "checkpoints" / "2")
    for skip in (False, True):
        with pytest.raises(DamagedCheckpoint, match="no earlier checkpoint: put its files back"):
            checkpoints.resume(abstract(make_state()), None, skip_damaged=skip)
    assert checkpoints.latest() == 2


def test_a_place_for_damaged_checkpoints_is_never_taken_twice(checkpoints, tmp_path):
    checkpoints.save(2, make_state(2), None, {})
    for number in range(2):
        checkpoints.save(4, make_state(4), None, {"number": number})
        checkpoints.wait()
        cut(tmp_path / "checkpoints" / "4")
        checkpoints.resume(abstract(make_state()), None, skip_damaged=True)
    kept = sorted(path.name for path in (tmp_path / "checkpoints-damaged").iterdir())
    assert kept == ["4", "4-1"]


def test_the_data_stay_where_they_are_if_the_state_is_damaged(checkpoints, tmp_path):
    moved = make_data()
    next(moved)
    checkpoints.save(2, make_state(2), make_data(), {})
    checkpoints.save(4, make_state(4), moved, {})
    checkpoints.wait()
    exchange_the_state(tmp_path / "checkpoints" / "4")
    data = make_data()
    with pytest.raises(DamagedCheckpoint, match="its values are not those that were saved"):
        checkpoints.restore(4, abstract(make_state()), data)
    np.testing.assert_array_equal(next(data), next(make_data()))


def test_a_checkpoint_of_another_model_is_not_a_damaged_one(checkpoints):
    checkpoints.save(2, make_state(2), None, {"model": "demo"})
    with pytest.raises(UserError, match="another model or run") as error:
        checkpoints.resume(abstract(make_state()), None, {"model": "7b"}, skip_damaged=True)
    assert not isinstance(error.value, DamagedCheckpoint)
    assert checkpoints.latest() == 2


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*file/checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints")


FULL_DISK = """
import resource, sys
import jax, jax.numpy as jnp
from owl_jax.checkpoint.manager import Checkpoints, DamagedCheckpoint
from owl_jax.errors import UserError

def state(step):
    return {"w": jax.random.normal(jax.random.key(step), (300, 1000))}

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

checkpoints = Checkpoints(sys.argv[1], keep=1, every=1)
checkpoints.save(1, state(1), None, {"good": True})
checkpoints.wait()
limit(100_000)
checkpoints.save(2, state(2), None, {})
try:
    checkpoints.wait()
except UserError as error:
    print(error)
print(checkpoints.latest())
limit(resource.RLIM_INFINITY)
restored, meta = checkpoints.restore(1, jax.eval_shape(lambda: state(1)), None)
print(bool((restored["w"] == state(1)["w"]).all()), meta)
checkpoints.save(3, state(3), None, {})
checkpoints.close()
print(checkpoints.latest())
"""


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    # A limit on the size of a file makes the kernel refuse the write, as a full disk does.
    result = forked.run("-c", FULL_DISK, str(tmp_path / "checkpoints"))
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert lines[0].startswith(
        f"cannot save a checkpoint to {tmp_path}/checkpoints: File too large"
    )
    assert lines[0].endswith("last complete checkpoint (it is of step 1)")
    assert lines[1:] == ["1", "True {'good': True}", "3"]
    assert "Traceback" not in result.stderr


def test_the_next_step_reports_a_save_that_failed(tmp_path):
    script = FULL_DISK.replace("    checkpoints.wait()\nexcept", "    again()\nexcept").replace(
        "limit(100_000)",
        """limit(100_000)
def again():
    import time
    for _ in range(100):
        time.sleep(0.05)
        checkpoints.save(2, state(2), None, {})
""",
    )
    result = forked.run("-c", script, str(tmp_path / "checkpoints"))
    assert "File too large" in result.stdout.splitlines()[0], result.stderr


# Of many arrays, each on several devices, others are read or written when one fails.
FAILS_AMONG_MANY = """
import gc, os, resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from owl_jax.checkpoint.manager import Checkpoints, DamagedCheckpoint
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh

rows = NamedSharding(make_mesh(), PartitionSpec("fsdp"))
state = {str(number): jnp.full((1000,), number, jnp.float32, device=rows) for number in range(64)}
found = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), state)
checkpoints = Checkpoints(sys.argv[1], every=1)
checkpoints.save(1, state, None, {})
checkpoints.wait()

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for step in range(2, 12):
    try:
        checkpoints.save(step, state, None, {})
        checkpoints.wait()
    except UserError:
        print("not saved")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

files = [path for path in Path(sys.argv[1], "1", "state").rglob("*") if path.is_file()]
largest = max(files, key=lambda path: path.stat().st_size)
os.truncate(largest, largest.stat().st_size // 2)
for _ in range(20):
    try:
        checkpoints.restore(1, found, None)
    except DamagedCheckpoint:
        print("not read")
checkpoints.close()
gc.collect()
"""


def test_nothing_is_printed_of_the_arrays_beside_one_that_fails(tmp_path):
    result = forked.run("-c", FAILS_AMONG_MANY, str(tmp_path / "checkpoints"))
    assert result.stdout.splitlines() == 10 * ["not saved"] + 20 * ["not read"], result.stderr
    assert result.stderr == ""
    assert result.returncode == 0


HALF_WRITTEN = """
import sys
import jax
from owl_jax.checkpoint.manager import Checkpoints

checkpoints = Checkpoints(sys.argv[1], keep=2, every=1)
checkpoints.save(1, {"w": jax.random.normal(jax.random.key(1), (100,))}, None, {})
checkpoints.wait()
checkpoints.save(2, {"w": jax.random.normal(jax.random.key(2), (8_000_000,))}, None, {})
checkpoints.wait()
"""


def test_a_half_written_checkpoint_is_ignored(tmp_path):
    directory = tmp_path / "checkpoints"
    process = forked.Forked(["-c", HALF_WRITTEN, str(directory)])
    while not list(directory.glob("2.*tmp*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (directory / "1").exists()
    assert not (directory / "2").exists()

    manager = Checkpoints(directory, keep=2, every=1)
    assert manager.latest() == 1
    manager.save(2, make_state(2), None, {})
    manager.close()
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]


def test_an_entry_that_an_old_checkpoint_lacks_has_its_default(checkpoints):
    checkpoints.save(2, make_state(2), None, {"fingerprint": "f"})
    checkpoints.wait()
    args = (2, abstract(make_state()), None)
    defaults = {"kind": "squash"}
    checkpoints.restore(*args, {"fingerprint": "f", "kind": "squash"}, defaults=defaults)
    with pytest.raises(UserError, match="its kind is 'squash', but 'pad' is expected"):
        checkpoints.restore(*args, {"fingerprint": "f", "kind": "pad"}, defaults=defaults)
