"""A damaged bit, or a file that is gone, empty or of another checkpoint: the same bits, or an
error."""

import json
import random
import shutil
from functools import cache

import grain
import jax
import jax.numpy as jnp
import pytest
from test_manager import abstract, assert_trees_equal, make_data, make_state

from owl_jax.checkpoint.manager import Checkpoints, DamagedCheckpoint
from owl_jax.errors import UserError

META = {"config.model": "demo", "fingerprint": "sha256:12", "rate": 0.1, "none": None}


def data_at(count):
    data = make_data()
    for _ in range(count):
        next(data)
    return data


@cache
def expected_at(step):
    """(state, the next batch of data)."""
    return make_state(step), next(data_at(step))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Checkpoints of steps 2 and 4 of one run."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    checkpoints = Checkpoints(directory)
    for step in (2, 4):
        checkpoints.save(step, make_state(step), data_at(step), META)
    checkpoints.close()
    return directory


def files_of(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def resume(directory, **arguments):
    """(step, state, the next batch of data), or the damage."""
    checkpoints, data = Checkpoints(directory), make_data()
    try:
        step, state = checkpoints.resume(
            abstract(make_state()), data, META, tell=lambda line: None, **arguments
        )
        return step, state, next(data)
    finally:
        checkpoints.close()


def assert_is(found, step):
    assert found[0] == step
    state, batch = expected_at(step)
    assert_trees_equal(found[1], state)
    assert (found[2] == batch).all()


def assert_told_or_harmless(directory):
    """Returns whether the damage is reported."""
    try:
        found = resume(directory)
    except DamagedCheckpoint as damage:
        message = str(damage)
        assert message.startswith(f"checkpoint {directory}/4 is damaged: ")
        assert "\n" not in message and len(message) < 700
        assert "of step 2, add --config.skip_damaged=True" in message
        assert_is(resume(directory, skip_damaged=True), 2)
        return True
    assert_is(found, 4)
    return False


def places(whole):
    """(file, byte, bit), drawn: some of each file, more of the JSON that says what is resumed."""
    drawn = random.Random(14)
    for path in files_of(whole / "4"):
        size = path.stat().st_size
        name = str(path.relative_to(whole))
        for _ in range(12 if path.parent.name in ("meta", "data") else 4):
            if size:
                yield name, drawn.randrange(size), drawn.randrange(8)


def test_a_bit_anywhere(whole, tmp_path):
    told = {}
    for number, (name, place, bit) in enumerate(places(whole)):
        directory = tmp_path / str(number)
        shutil.copytree(whole, directory)
        data = bytearray((directory / name).read_bytes())
        data[place] ^= 1 << bit
        (directory / name).write_bytes(data)
        told.setdefault(name, []).append(assert_told_or_harmless(directory))
    assert len(told) >= 8
    assert all(told["4/data/process_0-of-1.json"])
    assert sum(told["4/meta/metadata"]) >= 11  # but for the name of the hash itself


@pytest.mark.parametrize("damage", ["gone", "empty", "of step 2"])
def test_a_file_that_is_gone_empty_or_of_another_step(whole, tmp_path, damage):
    told = {}
    for number, path in enumerate(files_of(whole / "4")):
        name = path.relative_to(whole / "4")
        directory = tmp_path / str(number)
        shutil.copytree(whole, directory)
        target = directory / "4" / name
        if damage == "gone":
            target.unlink()
        elif damage == "empty":
            target.write_bytes(b"")
        elif (other := directory / "2" / name).exists():
            shutil.copy(other, target)
        else:
            continue
        told[str(name)] = assert_told_or_harmless(directory)
    assert told["meta/metadata"] and told["data/process_0-of-1.json"]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"next_index": 16', '"next_index": 17'), ('"next_index": 16', '"next_index": 8.5')],
)
def test_another_position_of_the_same_form(whole, tmp_path, old, new):
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run" / "4" / "data" / "process_0-of-1.json"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    assert assert_told_or_harmless(tmp_path / "run")


@pytest.mark.parametrize("key", ["config.model", "fingerprint", "rate", "checkpoint of step"])
def test_another_meta_is_not_another_run(whole, tmp_path, key):
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run" / "4" / "meta" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: "x"}))
    assert assert_told_or_harmless(tmp_path / "run")


def test_another_run_is_not_damage(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    for state, meta in ((make_state(width=4), META), (make_state(), {"fingerprint": "other"})):
        with pytest.raises(UserError, match="another model or") as error:
            checkpoints.resume(abstract(state), make_data(), meta, skip_damaged=True)
        assert not isinstance(error.value, DamagedCheckpoint)
    checkpoints.close()


def test_a_checkpoint_of_an_older_version_is_read(whole, tmp_path):
    """It has no hashes, and its position is as Grain writes it."""
    shutil.copytree(whole, tmp_path / "run")
    meta = tmp_path / "run" / "4" / "meta" / "metadata"
    kept = {key: json.loads(meta.read_text())[key] for key in (*META, "state")}
    meta.write_text(json.dumps(kept))
    grain.checkpoint.CheckpointHandler().save(meta.parents[1] / "data", data_at(4))
    assert_is(resume(tmp_path / "run"), 4)
    meta.write_text(json.dumps({key: kept[key] for key in META}))
    assert_is(resume(tmp_path / "run"), 4)


def test_keys_of_any_type_keep_their_hash(tmp_path):
    """A state is described by dtypes and shapes, also of what is not a plain array."""
    state = {"key": jax.random.key(1), "scalar": jnp.int32(1), "half": jnp.zeros(3, "bfloat16")}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state, None, {"list": (1, 2)})
    _, restored = checkpoints.resume(abstract(state), None, {"list": [1, 2]})
    checkpoints.close()
    assert_trees_equal(restored, state)
