"""Checkpoints of a training run: Orbax behind one class, and nowhere else.

A checkpoint holds the training state (trainable branches, optimizer state, step, keys), the data
iterator's state and a small JSON object, `meta`. The frozen base is not in it; its fingerprint is
in `meta`, so that a checkpoint is never continued on another base.

Saving is asynchronous. Orbax writes into a temporary directory and renames it when it is complete,
so a checkpoint that is there is whole: half-written ones are not seen, and are replaced when their
step is saved again.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grain
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath

from owl_jax.errors import UserError

# POSIX errors of a device that takes no more: EFBIG, ENOSPC, EDQUOT. TensorStore reports them
# inside a ValueError as text.
DISK_FULL = ("File too large", "No space left on device", "quota exceeded")

# A checkpoint of another model differs everywhere; a few arrays tell which model it was.
_SHOWN = 5


class Checkpoints:
    """The checkpoints of one working directory.

    Args:
      directory: where they lie; made if missing.
      keep: how many of the newest are kept.
      every: `save` writes at multiples of this many steps.

    Raises:
      UserError: the directory cannot be made.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2, every: int = 1) -> None:
        self._directory = epath.Path(directory).absolute()
        self._quiet = QuietOrbax()
        absl_logging.get_absl_logger().addFilter(self._quiet)
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            # Orbax's own default also saves the first step it is shown.
            save_decision_policy=policies.AnySavePolicy(
                [policies.FixedIntervalPolicy(every), policies.PreemptionCheckpointingPolicy()]
            ),
        )
        try:
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=options,
                # Named up front, so that the shapes of a checkpoint can be read before it is.
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "data": grain.checkpoint.CheckpointHandler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
            )
        except OSError as error:
            absl_logging.get_absl_logger().removeFilter(self._quiet)
            raise UserError(f"cannot write checkpoints to {self._directory}: {error}") from error
        self._saving = False

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None; waits for one being saved.

        Raises:
          UserError: as `save`.
        """
        self.wait()
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: Any,
        data_iterator: Any,
        meta: Mapping[str, Any],
        force: bool = False,
    ) -> bool:
        """Starts to save, if `step` is due, and returns as soon as the arrays are copied.

        Call it after every step: a failure of an earlier save is reported here too.

        Args:
          state: a pytree of arrays.
          data_iterator: a Grain iterator, or None.
          meta: anything JSON can hold.
          force: save a step that is not due, such as the last one.

        Returns:
          Whether a save was started.

        Raises:
          UserError: the disk is full. The newest complete checkpoint is unharmed.
        """
        with self._disk_errors():
            if self._saving and not self._manager.is_saving_in_progress():
                self._finish()
            if step == self._manager.latest_step():
                return False
            items = {
                "state": ocp.args.StandardSave(state),
                "meta": ocp.args.JsonSave(dict(meta)),
            }
            if data_iterator is not None:
                items["data"] = grain.checkpoint.CheckpointSave(data_iterator)
            started = self._manager.save(step, args=ocp.args.Composite(**items), force=force)
            self._saving |= started
            return started

    def restore(
        self,
        step: int,
        abstract_state: Any,
        data_iterator: Any,
        expected_meta: Mapping[str, Any] | None = None,
        hints: Mapping[str, str] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Restores a checkpoint onto any mesh.

        Args:
          step: of the checkpoint.
          abstract_state: the state as ShapeDtypeStructs with shardings.
          data_iterator: a fresh Grain iterator of the same pipeline, set to where the saved one
            was; or None.
          expected_meta: entries that the checkpoint's meta must have with just these values, such
            as {"fingerprint": fingerprint(frozen)}. An entry "... name" is not compared, but names
            what the entry of the rest of its key is of.
          hints: what else one can do about an entry that differs.

        Returns:
          (state, meta)

        Raises:
          UserError: there is no such checkpoint, or it is one of another model or another run: an
            entry of meta, a path, a shape or a dtype differs. Both sides are named.
        """
        name = f"checkpoint {self._directory / str(step)}"
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, self._manager.all_steps())) or "none"
            raise UserError(f"{name} does not exist or is incomplete; there are: {steps}")
        composite = ocp.args.Composite
        meta = self._manager.restore(step, args=composite(meta=ocp.args.JsonRestore())).meta
        expected = expected_meta or {}
        for key, value in expected.items():
            if meta.get(key) != value and not key.endswith(" name"):
                raise UserError(
                    f"{name} is a checkpoint of another model or run: its {key} is "
                    f"{_named(meta, key)}, but {_named(expected, key)} is expected; continue with "
                    f"what it was made with, or use a new workdir{(hints or {}).get(key, '')}"
                )
        metadata = self._manager.item_metadata(step)
        _check_tree(name, _described(metadata.state.tree), _described(abstract_state))

        items = {"state": ocp.args.StandardRestore(abstract_state)}
        if data_iterator is not None:
            self._check_position(step, name)
            items["data"] = grain.checkpoint.CheckpointRestore(data_iterator)
        return self._manager.restore(step, args=composite(**items)).state, meta

    def _check_position(self, step: int, name: str) -> None:
        directory = self._directory / str(step) / "data"
        if not directory.exists():
            raise UserError(f"{name} holds no position in the data; it was saved without one")
        count = jax.process_count()
        if not (directory / f"process_{jax.process_index()}-of-{count}.json").exists():
            (saved,) = {path.stem.rpartition("-of-")[2] for path in directory.glob("process_*")}
            raise UserError(
                f"{name} holds the positions in the data of {saved} processes, but there are "
                f"{count} now; start it with {saved}, or begin the data again with "
                "--config.data.resume=False"
            )

    def wait(self) -> None:
        """Blocks until what is being saved is saved.

        Raises:
          UserError: as `save`.
        """
        with self._disk_errors():
            self._finish()

    def close(self) -> None:
        """Waits and lets go of the threads; the object cannot be used afterwards.

        Raises:
          UserError: as `save`.
        """
        try:
            self.wait()
        finally:
            self._manager.close()
            absl_logging.get_absl_logger().removeFilter(self._quiet)

    def _finish(self) -> None:
        self._saving = False
        self._manager.wait_until_finished()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = next((reason for reason in DISK_FULL if reason in str(error)), None)
            if reason is None:
                raise
            # Orbax counts a checkpoint from the start of its save, and forgets the oldest then; on
            # disk the oldest goes after the newest is complete.
            self._manager.reload()
            latest = self._manager.latest_step()
            survivor = "there is none yet" if latest is None else f"it is of step {latest}"
            raise UserError(
                f"cannot save a checkpoint to {self._directory}: {reason}. Free some space and run "
                f"the command again: it resumes from the last complete checkpoint ({survivor})"
            ) from error


def _named(meta: Mapping[str, Any], key: str) -> str:
    name = meta.get(f"{key} name")
    return repr(meta.get(key)) if name is None else f"{name} ({meta.get(key)})"


class QuietOrbax(logging.Filter):
    """Drops Orbax's progress notes, and its logged tracebacks.

    Each of Orbax's threads logs the failure of a save with its traceback; the failure itself
    reaches the caller of `save` or `wait`, so nothing is lost.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        from_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
        return not from_orbax or (record.levelno >= logging.WARNING and not record.exc_info)


def fingerprint(params: Any) -> str:
    """A name for the exact bits of a tree of arrays.

    sha256 over the sorted lines "path shape dtype sum". The sum is taken on the device, modulo
    2^32, over the bits of each element as an unsigned integer times an odd weight that differs by
    position: so it does not depend on the order of addition, and hence not on the sharding. One
    changed element always changes it; a transposed matrix or exchanged rows almost always do. It
    finds mistakes, not forgers.

    Args:
      params: a tree of arrays of any sharding; dtypes of at most 32 bits.

    Returns:
      "sha256:" and 64 hexadecimal digits.
    """
    sums = jax.device_get(jax.jit(lambda tree: jax.tree.map(_bit_sum, tree))(params))
    described = _described(params)
    lines = [
        f"{path} {described[path][0]} {described[path][1]} {int(total)}"
        for path, total in sorted(_flatten(sums).items())
    ]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _bit_sum(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jnp.floating):
        width = array.dtype.itemsize * 8
        bits = jax.lax.bitcast_convert_type(array, f"uint{width}").astype(jnp.uint32)
    else:
        bits = array.astype(jnp.uint32)
    # The position is summed up from one counter per dimension, since flattening an array that is
    # split over devices would gather it.
    position = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(array.shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, array.shape, axis
        )
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, which reads the same for tuples and attributes as for Orbax's metadata."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _described(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    described = {}
    for path, leaf in _flatten(tree).items():
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Orbax stores a key as the integers it is made of.
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        described[path] = (tuple(leaf.shape), jnp.dtype(leaf.dtype).name)
    return described


def _check_tree(
    name: str,
    found: Mapping[str, tuple[tuple[int, ...], str]],
    expected: Mapping[str, tuple[tuple[int, ...], str]],
) -> None:
    def shown(description: tuple[tuple[int, ...], str] | None) -> str:
        if description is None:
            return "nothing"
        shape, dtype = description
        return f"{dtype}[{', '.join(map(str, shape))}]"

    differences = [
        f"{path} is {shown(found.get(path))} in the checkpoint and {shown(expected.get(path))} here"
        for path in sorted({*found, *expected})
        if found.get(path) != expected.get(path)
    ]
    if differences:
        more = "; ..." if len(differences) > _SHOWN else ""
        raise UserError(
            f"{name} is a checkpoint of another model or recipe: {len(differences)} arrays differ: "
            f"{'; '.join(differences[:_SHOWN])}{more}; continue with the config it was made with, "
            "or use a new workdir"
        )
