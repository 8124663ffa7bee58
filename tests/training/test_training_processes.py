"""Two real processes of four devices each: they share the data out, and go on only as two.

What three tests ask, one pair of processes answers: each start costs seconds.
"""

import json
import runpy
import shutil
import socket
from collections import Counter

import pytest
import tiny
from forked import Forked
from training_runs import CONFIG as STAGE2
from training_runs import finish, metrics_of, start, start_several, state_of, steps_of

from owl_jax.errors import UserError
from owl_jax.training.loop import train

pytestmark = pytest.mark.processes

SCRIPT = """
import json, runpy, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import numpy as np
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import process_batch_shard, shard_batch
from owl_jax.training.config import read_model
from owl_jax.training.data import open_data
from owl_jax.training.loop import train

directory = Path(sys.argv[3])
count = jax.jit(lambda mask: mask.sum())


def read(config, workdir):
    # Every example of one epoch and a half, as the global arrays of the steps hold them.
    mesh = make_mesh(**config.mesh)
    data = open_data(config, read_model(config), workdir, *process_batch_shard(mesh))
    numbers, supervised, steps = [], [], 0
    for steps in range(1, 19):
        batch = shard_batch(vars(next(data.batches)), mesh)
        assert batch["input_ids"].shape == (config.batch_size, config.data.sequence_length)
        supervised.append(float(count(batch["loss_mask"])))  # over both processes
        shards = {name: {str(s.index): s for s in batch[name].addressable_shards} for name in batch}
        for index in shards["targets"]:
            rows = (
                np.asarray(shards[name][index].data)
                for name in ("targets", "loss_mask", "segment_ids")
            )
            for targets, mask, segments in zip(*rows, strict=True):
                for segment in range(1, segments.max() + 1):
                    taught = targets[(mask == 1) & (segments == segment)]
                    numbers.append(int(data.tokenizer.decode(taught)))
    data.close()
    return {"numbers": numbers, "supervised": supervised, "steps": steps}


# Processes that only the tensor axis tells apart hold the same rows.
assert process_batch_shard(make_mesh(data=1, fsdp=1, tensor=8)) == (0, 1)
assert process_batch_shard(make_mesh(data=2, fsdp=1, tensor=4)) == (jax.process_index(), 2)
configs = {name: runpy.run_path(str(directory / name))["get_config"]()
           for name in ("config.py", "packed.py")}
answer = {name: read(config, directory / f"read-{name}") for name, config in configs.items()}
train(configs["config.py"], directory / "run")
print(json.dumps(answer | {"done": jax.process_index()}))
"""

CONFIG = """
import dataclasses
from pathlib import Path
from owl_jax.checkpoint.model_directory import read_config
from owl_jax.training.config import small_config


def get_config():
    config = small_config(read_config(Path("{base}")))
    config.steps = 3
    config.batch_size = 16
    config.init.vision = config.init.connector = config.init.llm = config.tokenizer = "{base}"
    config.rules = (("connector/.*", "connector"), (".*", "frozen"))
    config.recipes.connector = {{"learning_rate": 1e-3}}
    config.data.sequence_length = 64
    config.data.mixture = (("{data}", 1.0),)
    config.checkpoint_every = 3
    config.export = "none"
    return config
"""


PACKED = """
    config.data.mixture = (("{0}/data.jsonl", 1.0), ("{0}/long.jsonl", 1.0))
    config.data.pack = True
    config.data.sequence_length = 128
    config.checkpoint_every"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes")
    base, data = tiny.write_model(directory / "base"), directory / "data.jsonl"
    for file, numbers in (data, range(192)), (directory / "long.jsonl", range(1000, 1096)):
        said = ["Say it." if file == data else "Say it, and say it again."] * len(numbers)
        texts = [f"Human: {what}\nAI: {n}" for what, n in zip(said, numbers, strict=True)]
        file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    config = CONFIG.format(base=base, data=data)
    (directory / "config.py").write_text(config)
    packed = config.replace("\n    config.checkpoint_every", PACKED.format(directory))
    assert packed != config
    (directory / "packed.py").write_text(packed)
    return directory


@pytest.fixture(scope="module")
def answers(files):
    """What each of two processes printed last."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [Forked(["-c", SCRIPT, address, str(n), str(files)]) for n in range(2)]
    results = finish(processes)
    assert [code for code, _, _ in results] == [0, 0], results
    return [json.loads(out.splitlines()[-1]) for _, out, _ in results]


def test_together_they_see_each_example_of_an_epoch_once(answers):
    first, second = (answer["config.py"] for answer in answers)
    assert first["steps"] == second["steps"] == 18
    assert first["supervised"] == second["supervised"]
    # Eight rows a step each: an epoch of 192 takes twelve steps.
    epochs = [
        [n for found in (first, second) for n in found["numbers"][start : start + 96]]
        for start in (0, 96)
    ]
    assert sorted(epochs[0]) == list(range(192))
    assert len(epochs[1]) == 96 and max(Counter(epochs[1]).values()) == 1


def test_packed_they_have_the_mixture_s_shares(answers):
    """Two sources of other lengths, one record of each in turn: neither process gets one alone."""
    found = [answer["packed.py"] for answer in answers]
    assert found[0]["steps"] == found[1]["steps"] == 18
    for process in found:
        long = sum(number >= 1000 for number in process["numbers"])
        assert abs(long / len(process["numbers"]) - 0.5) < 0.02
        assert len(process["numbers"]) > 18 * 8  # packed


def test_a_run_of_two_processes_goes_on_as_two(files, answers, tmp_path):
    assert [answer["done"] for answer in answers] == [0, 1]
    workdir = tmp_path / "run"
    shutil.copytree(files / "run", workdir)
    positions = workdir / "checkpoints" / "3" / "data"
    assert sorted(path.name for path in positions.glob("process_*")) == [
        "process_0-of-2.json",
        "process_1-of-2.json",
    ]
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2

    config = runpy.run_path(str(files / "config.py"))["get_config"]()
    config.steps = 4
    with pytest.raises(UserError, match="of 2 processes, but this run has 1; start it with 2") as e:
        train(config, workdir)
    assert "--config.data.resume=False" in str(e.value)
    config.data.resume = False
    assert train(config, workdir) is None
    assert (workdir / "checkpoints" / "4" / "data" / "process_0-of-1.json").exists()


@pytest.fixture(scope="module")
def stage2(tmp_path_factory):
    """A directory with stage 2 on rows that a batch holds in any order, and its two runs.

    Without dropout, whose masks go by the place of a row in the batch.
    """
    directory = tmp_path_factory.mktemp("stage2")
    changes = {
        "dropout=0.1": "dropout=0.0",
        "steps = 20": "steps = 6",
        "batch_size = 8": "batch_size = 16",
        'kinds = {{"vqa": 1.0, "text_math": 1.0}}': 'kinds = {{"vqa": 1.0}}',
        "checkpoint_every = 5": 'checkpoint_every = 3\n    config.export = "none"\n'
        "    config.data.pack = False",
    }
    config = STAGE2
    for old, new in changes.items():
        assert old in config
        config = config.replace(old, new)
    base = tiny.write_model(directory / "base")
    (directory / "config.py").write_text(config.format(base=base))
    one = [start(directory / "config.py", directory / "one", devices=8)]
    assert [code for code, _, _ in finish(one)] == [0]
    two = start_several(directory / "config.py", directory / "two", count=2, devices=4)
    assert [code for code, _, _ in finish(two)] == [0, 0]
    return directory


def losses_of(workdir, first=1):
    return [line["loss"] for line in metrics_of(workdir) if line["step"] >= first]


def test_two_processes_train_stage_2_as_one_does(stage2):
    one, two = losses_of(stage2 / "one"), losses_of(stage2 / "two")
    assert len(one) == 6 and len({round(loss, 3) for loss in one}) == 6
    assert two == pytest.approx(one, rel=1e-5)
    tokens = [
        [m["supervised_tokens"] for m in metrics_of(stage2 / name)] for name in ("one", "two")
    ]
    assert tokens[0] == tokens[1]


def test_a_checkpoint_of_two_goes_on_as_one_and_the_other_way_round(stage2):
    """From step 3, each on a mesh that it was not saved on, with the data from its beginning."""

    def resumed(name, source):
        workdir = stage2 / name
        shutil.copytree(stage2 / source, workdir)
        shutil.rmtree(workdir / "checkpoints" / "6")
        assert steps_of(workdir) == [3]
        return workdir

    again = "--config.data.resume=False"
    other_mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    config = stage2 / "config.py"

    as_before = resumed("one_again", "one")
    from_two = resumed("from_two", "two")
    from_one = resumed("from_one", "one")
    runs = [
        [start(config, as_before, again, devices=8)],
        [start(config, from_two, again, *other_mesh, devices=8)],
        start_several(config, from_one, again, *other_mesh, count=2, devices=4),
    ]
    for run in runs:
        results = finish(run)
        assert [code for code, _, _ in results] == [0] * len(run), results
        assert "resumed from step 3" in results[0][1]
    expected = losses_of(as_before, first=4)
    assert len(expected) == 3
    assert losses_of(from_two, first=4) == pytest.approx(expected, rel=1e-4)
    assert losses_of(from_one, first=4) == pytest.approx(expected, rel=1e-4)
    # What was restored is what was saved, bit by bit: it was checked against this on the way.
    assert state_of(from_two, 3) == state_of(stage2 / "two", 3)
    assert state_of(from_one, 3) == state_of(stage2 / "one", 3)
