"""Training steps of the 7B on one GPU, against the same steps in PyTorch.

    python benchmarks/gpu_step.py [--stages=2,1] [--rows=4] [--length=2048] [--remat=minimal]
    python benchmarks/gpu_step.py --size=tiny --length=128     # smoke test on any machine

Stage 2 and stage 1 of configs/, randomly initialised: frozen weights in bfloat16, trainable ones in
float32, matmuls in bfloat16, one image a sequence, optimizer included. Ours uses cuDNN's attention
where possible (models/attention/dispatch.py). PyTorch's side uses transformers, PEFT, SDPA (its
flash kernel, since full sequences need no mask), autocast, fused AdamW and gradient checkpointing;
it needs torch, transformers and peft in addition to jax[cuda13].

Each side runs in its own process, so the other's memory is free. MFU is model FLOPs per second
(training/flops.py, the same for both) over a peak: the data sheet's (parallel/chips.py) and, in the
column "of 790", the 790 TFLOP/s that large bfloat16 matmuls reach on an H200.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from _timing import missing
from absl import flags
from ml_collections import ConfigDict
from train_step import make_batch

from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.parallel.chips import peak_flops
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import shard_batch
from owl_jax.training.partition import FROZEN, split
from owl_jax.training.state import place_state
from owl_jax.training.train_program import TrainingProgram, make_program

# --rows, --length and --rounds are those of train_step.py.
flags.FLAGS.set_default("rows", 4)
flags.FLAGS.set_default("length", 2048)
flags.FLAGS.set_default("rounds", 10)
_SIZE = flags.DEFINE_enum("size", "full", ["full", "tiny"], "of the model")
_STAGES = flags.DEFINE_list("stages", ["2", "1"], "of training")
_SIDES = flags.DEFINE_list("sides", ["owl_jax", "PyTorch"], "what to measure")
_REMAT = flags.DEFINE_string("remat", "minimal", "our rematerialisation (models/remat.py)")
_CHECKPOINTING = flags.DEFINE_bool("checkpointing", True, "PyTorch recomputes every layer")
_CHILD = flags.DEFINE_string("child", None, "STAGE:SIDE to measure in this process")

CONFIGS = Path(__file__).parents[1] / "configs"
MEASURED_PEAK = 790e12
WARM_UP = 2

TINY = {
    "vision": {"image_size": 28, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
    "connector": {"num_query_tokens": 4, "hidden_size": 32, "mlp_size": 48, "num_heads": 2},
    "llm": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4},
}


def main(argv: list[str]) -> None:
    """Prints a table; as a child, a line of JSON."""
    del argv
    if _CHILD.value:
        stage, _, side = _CHILD.value.partition(":")
        measure = {"owl_jax": measure_ours, "PyTorch": measure_theirs}[side]
        print(json.dumps(measure(stage_config(stage))))
        return
    if unknown := set(_SIDES.value) - {"owl_jax", "PyTorch"}:
        raise UserError(f"--sides={','.join(unknown)}: expected owl_jax, PyTorch or both")
    if _SIZE.value == "full" and not has_gpu():
        print("left out: no GPU; --size=tiny runs anywhere")
        return
    sides = list(_SIDES.value)
    if "PyTorch" in sides and (lacking := missing("torch", "transformers", "peft")):
        print(f"PyTorch is left out: {lacking}; pip install -e '.[parity]'")
        sides.remove("PyTorch")
    for stage in _STAGES.value:
        compare(stage, sides)


def compare(stage: str, sides: list[str]) -> None:
    """Measures both sides of a stage and prints a line for each."""
    rows, length = flags.FLAGS.rows, flags.FLAGS.length
    print(f"\nStage {stage}, {_SIZE.value} size, {rows} sequences of {length} tokens")
    print(
        f"{'':<10}{'median s':>10}{'fastest':>10}{'tokens/s':>10}{'MFU':>8}{'of 790':>8}{'GB':>8}"
    )
    fastest = {}
    for side in sides:
        result = run_child(stage, side)
        seconds, fastest[side] = median(result["seconds"]), min(result["seconds"])
        peak = peak_flops(result["device"])
        mfu = f"{result['flops'] / seconds / peak:.3f}" if peak else "-"
        measured = f"{result['flops'] / seconds / MEASURED_PEAK:.3f}" if peak else "-"
        memory = f"{result['bytes'] / 1e9:.1f}" if result["bytes"] else "-"
        print(
            f"{side:<10}{seconds:>10.3f}{fastest[side]:>10.3f}{rows * length / seconds:>10.0f}"
            f"{mfu:>8}{measured:>8}{memory:>8}  {result['device']}, {result['version']}",
            flush=True,
        )
    if len(fastest) == 2 and _SIZE.value == "full":
        print(f"PyTorch / owl_jax, fastest steps: {fastest['PyTorch'] / fastest['owl_jax']:.2f}")


def run_child(stage: str, side: str) -> dict[str, Any]:
    """Measures one side in a separate process."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--child={stage}:{side}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"{side}, stage {stage} ended with {done.returncode} (see above); if it ran out of "
            "memory, lower --rows or set --remat=full"
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def has_gpu() -> bool:
    """Asks JAX in a separate process, because JAX preallocates most of a GPU's memory."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "gpu"


def stage_config(stage: str) -> ConfigDict:
    """The stage's config for one device and one image a sequence."""
    path = CONFIGS / f"stage{stage}.py"
    if not path.exists():
        raise UserError(f"--stages={stage}: expected 1 or 2")
    config: ConfigDict = runpy.run_path(str(path))["get_config"]()
    config.batch_size, config.gradient_accumulation_steps = flags.FLAGS.rows, 1
    config.data.sequence_length, config.data.image_slots = flags.FLAGS.length, 1
    config.compute.remat = config.compute.media_remat = _REMAT.value
    if _SIZE.value == "tiny":
        for part, sizes in TINY.items():
            config.model[part].update(sizes, num_layers=2)
        config.model.llm.num_kv_heads = config.model.llm.num_heads
    return config


def measure_ours(config: ConfigDict) -> dict[str, Any]:
    """Seconds of each step, model FLOPs, peak memory."""
    device = jax.devices()[0]
    mesh = make_mesh(devices=[device])
    program = make_program(config, mesh)
    trainable, frozen = split(random_params(program), program.labels)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, trainable)
    state = place_state(trainable, program.optimizer, shardings, mesh)
    batch = make_batch(program.model, program.rows, program.row.length)
    batch = type(batch)(**shard_batch(vars(batch), mesh))
    with program.active():

        def step() -> Any:
            nonlocal state
            state, metrics = program.step(state, frozen, batch)
            return jax.block_until_ready(metrics["loss"])

        seconds, loss = repeat(step)
    check(loss)
    memory = device.memory_stats() or {}
    return {
        "seconds": seconds,
        "flops": program.flops(),
        "bytes": memory.get("peak_bytes_in_use"),
        "device": device.device_kind,
        "version": f"jax {jax.__version__}",
    }


def random_params(program: TrainingProgram) -> Any:
    """Random weights, created on the device leaf by leaf in their final dtype."""

    def initialise(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        kind = path[-1].key
        name = jax.tree_util.keystr(path)

        def make() -> jax.Array:
            if kind in ("scale", "bias", "b"):
                return jnp.full(leaf.shape, float(kind == "scale"), leaf.dtype)
            key = jax.random.key(sum(name.encode()))
            return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)

        return jax.jit(make, out_shardings=leaf.sharding)()

    return jax.tree_util.tree_map_with_path(initialise, program.params)


def measure_theirs(config: ConfigDict) -> dict[str, Any]:
    """Measures the same as `measure_ours` for PyTorch; JAX stays on the CPU."""
    jax.config.update("jax_platforms", "cpu")
    import torch
    from _torch_model import TorchOwl, batch_inputs, make_torch_step

    program = make_program(config, make_mesh(devices=jax.devices()[:1]))
    trained = {
        path for path in program.labels if FROZEN not in jax.tree.leaves(program.labels[path])
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        owl = TorchOwl(program.model)
    torch.set_default_dtype(torch.float32)
    rate = next(iter(program.recipes.values())).learning_rate
    train = make_torch_step(owl, trained, rate, autocast=True)
    if _CHECKPOINTING.value:
        owl.recompute()
    batch = make_batch(program.model, program.rows, program.row.length)
    inputs = batch_inputs(batch, program.model.num_tokens("image"), device)
    seconds, loss = repeat(lambda: float(train(inputs)))
    check(loss)
    cuda = device == "cuda"
    return {
        "seconds": seconds,
        "flops": program.flops(),
        "bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "version": f"torch {torch.__version__}",
    }


def repeat(step: Callable[[], Any]) -> tuple[list[float], float]:
    """(seconds of each step after the warm-up, last loss)."""
    seconds = []
    for _ in range(WARM_UP + flags.FLAGS.rounds):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:], float(loss)


def check(loss: float) -> None:
    """Raises AssertionError for a non-finite loss, since such a step skips the update."""
    if not jnp.isfinite(loss):
        raise AssertionError(f"the loss is {loss}")


if __name__ == "__main__":
    cli.run(main)
