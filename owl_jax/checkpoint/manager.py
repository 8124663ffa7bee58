"""Checkpoints of a training run, written and read by Orbax.

A checkpoint has the training state (trainable subtrees, optimizer state, step, keys), the data
iterator's state and a small JSON object, `meta`. The frozen base is not saved; `meta` has its tree
hash, so a run never resumes with another base.

Saving is asynchronous. Orbax writes to a temporary directory and renames it at the end, so every
visible checkpoint is complete; partial ones are replaced when their step is saved again. Damage to
the files is detected when they are read: `meta` has the tree hash of the state, and the JSON parts
have a hash (seal.py).
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from jax.errors import JaxRuntimeError
from jax.experimental.multihost_utils import process_allgather, sync_global_devices

from owl_jax.checkpoint.event_loop import patient_event_loops
from owl_jax.checkpoint.seal import Position, position_of
from owl_jax.checkpoint.tree_hash import described, tree_hash
from owl_jax.errors import UserError, disk_full, one_line
from owl_jax.sealed_json import Damaged, digest, sealed, unsealed

# Differing arrays in a message; if the model is another, all of them differ.
_SHOWN = 5

_LONGEST = 200  # characters of another library's message

# Smaller arrays are saved whole. Orbax shares the writing of an array among the devices that have
# it, and compiles a program for the slice of each.
_SHARED_BYTES = 2**20

# Keys of meta: the tree hash of the state, the hash of its paths, shapes and dtypes, and the step.
_STATE, _ARRAYS, _STEP = "state", "arrays", "checkpoint of step"


class DamagedCheckpoint(UserError):
    """The files of a checkpoint have changed since they were written."""


class Checkpoints:
    """The checkpoints of one working directory.

    Args:
      directory: created if missing.
      keep: number of newest checkpoints to keep.
      every: `save` writes at multiples of this step count.

    Raises:
      UserError: the directory cannot be created.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2, every: int = 1) -> None:
        self._directory = epath.Path(directory).absolute()
        self._saving_loops = ExitStack()  # Orbax creates some after save returns
        self._quiet = QuietOrbax()
        absl_logging.get_absl_logger().addFilter(self._quiet)
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            # Orbax's default would also save the first step.
            save_decision_policy=policies.FixedIntervalPolicy(every),
        )
        try:
            # Explicit handlers can read the shapes of a checkpoint before its arrays.
            self._handlers = {
                "state": ocp.StandardCheckpointHandler(),
                "data": grain.checkpoint.CheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            }
            self._manager = ocp.CheckpointManager(
                self._directory, options=options, item_handlers=self._handlers
            )
        except OSError as error:
            absl_logging.get_absl_logger().removeFilter(self._quiet)
            raise UserError(f"cannot write checkpoints to {self._directory}: {error}") from error
        self._saving = False

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None; waits for a save in progress.

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
        """Starts a save if `step` is due, and returns once the arrays are copied.

        Call it after every step: it also reports failures of earlier saves.

        Args:
          state: a pytree of arrays.
          data_iterator: a Grain iterator, or None.
          meta: JSON values.
          force: save a step that is not due, such as the last one.

        Returns:
          Whether a save was started.

        Raises:
          UserError: the disk is full. The newest complete checkpoint is intact.
        """
        with self._disk_errors():
            if self._saving and not self._manager.is_saving_in_progress():
                self._finish()
            if step == self._manager.latest_step():
                return False
            if not (force or self._manager.should_save(step)):
                return False
            state_hash = tree_hash(state)
            own = {_STATE: state_hash, _ARRAYS: digest(described(state)), _STEP: step}
            items = {
                "state": ocp.args.StandardSave(jax.tree.map(_undivided, state)),
                "meta": ocp.args.JsonSave(sealed({**meta, **own})),
            }
            if data_iterator is not None:
                position = Position(data_iterator.get_state(), state_hash)
                items["data"] = grain.checkpoint.CheckpointSave(position)
            if not self._saving:
                self._saving_loops.enter_context(patient_event_loops())
            started = self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            self._saving |= started
            return started

    def resume(
        self,
        abstract_state: Any,
        data_iterator: Any,
        expected_meta: Mapping[str, Any] | None = None,
        hints: Mapping[str, str] | None = None,
        skip_damaged: bool = False,
        tell: Callable[[str], None] = print,
        defaults: Mapping[str, Any] | None = None,
    ) -> tuple[int, Any] | None:
        """Restores the newest checkpoint, if there is one; all processes restore the same one.

        Args:
          skip_damaged: move a damaged checkpoint aside, without deleting it, and restore the one
            before it.
          tell: called with one line for each checkpoint that is moved.
          The others are those of `restore`.

        Returns:
          (step, state), or None if there is no checkpoint.

        Raises:
          UserError: as `restore`; DamagedCheckpoint names the step to resume from instead.
        """
        while (step := self.latest()) is not None:
            try:
                state, _ = self.restore(
                    step, abstract_state, data_iterator, expected_meta, hints, defaults
                )
                return step, state
            except DamagedCheckpoint as damage:
                earlier = [before for before in self._manager.all_steps() if before < step]
                if not earlier:
                    raise DamagedCheckpoint(
                        f"{damage}; there is no earlier checkpoint: put its files back, or start "
                        "again in a new workdir"
                    ) from damage
                if not skip_damaged:
                    raise DamagedCheckpoint(
                        f"{damage}; to resume from the checkpoint of step {max(earlier)}, add "
                        "--config.skip_damaged=True (this one is moved, not deleted)"
                    ) from damage
                tell(f"{damage}; moved to {self._set_aside(step)}")
        return None

    def _set_aside(self, step: int) -> epath.Path:
        """Moves a checkpoint out of the directory; returns its new path."""
        parent = self._directory.with_name(f"{self._directory.name}-damaged")
        names = (f"{step}-{number}" if number else str(step) for number in itertools.count())
        target = next(parent / name for name in names if not (parent / name).exists())
        if jax.process_index() == 0:
            parent.mkdir(parents=True, exist_ok=True)
            (self._directory / str(step)).rename(target)
        if jax.process_count() > 1:
            sync_global_devices(f"checkpoint {step} is set aside")
        self._manager.reload()
        return target

    def restore(
        self,
        step: int,
        abstract_state: Any,
        data_iterator: Any,
        expected_meta: Mapping[str, Any] | None = None,
        hints: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Restores a checkpoint onto any mesh.

        Args:
          step: of the checkpoint.
          abstract_state: the state as ShapeDtypeStructs with shardings.
          data_iterator: a new Grain iterator of the same pipeline, set to the saved position; or
            None.
          expected_meta: required entries of the checkpoint's meta, such as
            {"fingerprint": tree_hash(frozen)}. "KEY name" is not compared; it is a readable name
            for the value of KEY.
          hints: {key: advice for an entry that differs}.
          defaults: {key: the value of an entry that the checkpoint's meta lacks}, for entries that
            checkpoints of earlier versions do not have.

        Returns:
          (state, meta)

        Raises:
          UserError: there is no such checkpoint, or it is of another model or run: an entry of
            meta, a path, a shape or a dtype differs. The message has both values.
          DamagedCheckpoint: its files cannot be read, or the state differs from what was saved.
        """
        name = self._name(step)
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, self._manager.all_steps())) or "none"
            raise UserError(f"{name} does not exist or is incomplete; there are: {steps}")
        with _reading(name):
            meta, is_sealed = unsealed(self._read(step, "meta", ocp.args.JsonRestore()), "meta")
            if meta.pop(_STEP, step) != step:
                raise Damaged("its meta is of another step")
        recorded, arrays = meta.pop(_STATE, None), meta.pop(_ARRAYS, None)
        expected, known = expected_meta or {}, {**(defaults or {}), **meta}
        for key, value in expected.items():
            if known.get(key) != value and not key.endswith(" name"):
                raise UserError(
                    f"{name} is a checkpoint of another model or run: its {key} is "
                    f"{_named(known, key)}, but {_named(expected, key)} is expected; continue with "
                    f"the {key} it was made with, or use a new workdir{(hints or {}).get(key, '')}"
                )
        with _reading(name):
            found = described(self._handlers["state"].metadata(self._path(step, "state")).tree)
            if arrays is not None and digest(found) != arrays:
                raise Damaged("the paths, shapes or dtypes of its arrays have changed")
        _check_tree(name, found, described(abstract_state))

        with _reading(name):
            if data_iterator is not None:
                position = position_of(self._position(step, name), recorded, is_sealed)
            state = self._read(step, "state", ocp.args.StandardRestore(abstract_state))
            # If a file is missing, Orbax may return a PRNG key as its integers.
            if _dtypes(state) != _dtypes(abstract_state):
                raise Damaged("its arrays have other dtypes than were saved")
        if recorded is not None and tree_hash(state) != recorded:
            raise DamagedCheckpoint(f"{name} is damaged: its values are not those that were saved")
        if data_iterator is not None:  # last, since it cannot be undone
            with _reading(name):
                data_iterator.set_state(position)
                data_iterator.start_prefetch()
        return state, meta

    def meta(self, step: int) -> dict[str, Any]:
        """The meta of a checkpoint, without its arrays.

        Raises:
          DamagedCheckpoint: it cannot be read.
        """
        with _reading(self._name(step)):
            return unsealed(self._read(step, "meta", ocp.args.JsonRestore()), "meta")[0]

    def _read(self, step: int, item: str, args: Any) -> Any:
        # The manager would synchronise all processes, which hang if one cannot read its shard.
        return self._handlers[item].restore(self._path(step, item), args=args)

    def _path(self, step: int, item: str) -> epath.Path:
        return self._directory / str(step) / item

    def _name(self, step: int) -> str:
        return f"checkpoint {self._directory / str(step)}"

    def _position(self, step: int, name: str) -> bytes:
        """Reads this process's position in the data."""
        directory = self._path(step, "data")
        count = jax.process_count()
        mine = directory / f"process_{jax.process_index()}-of-{count}.json"
        saved = {int(path.stem.rpartition("-of-")[2]) for path in directory.glob("process_*-of-*")}
        if saved and count not in saved:
            raise UserError(
                f"{name} has the positions in the data of {max(saved)} processes, but this run "
                f"has {count}; start it with {max(saved)}, or start the data again with "
                "--config.data.resume=False"
            )
        if not mine.exists():
            raise FileNotFoundError(f"no position in the data in {mine}")
        return mine.read_bytes()

    def wait(self) -> None:
        """Blocks until the save in progress is complete.

        Raises:
          UserError: as `save`.
        """
        with self._disk_errors():
            self._finish()

    def close(self) -> None:
        """Waits and releases all threads; the object cannot be used afterwards.

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
        with self._saving_loops:
            self._manager.wait_until_finished()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = disk_full(error)
            if reason is None:
                raise
            # When a save starts, Orbax lists the new checkpoint and drops the oldest from its
            # list; it deletes the oldest from disk only after the new one is complete.
            self._manager.reload()
            latest = self._manager.latest_step()
            survivor = "there is none yet" if latest is None else f"it is of step {latest}"
            raise UserError(
                f"cannot save a checkpoint to {self._directory}: {reason}. Free some space and run "
                f"the command again: it resumes from the last complete checkpoint ({survivor})"
            ) from error


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """If one process finds damage, raises DamagedCheckpoint in all processes."""
    damage = None
    try:
        with patient_event_loops():
            yield
    except (FileNotFoundError, NotADirectoryError) as error:
        damage = DamagedCheckpoint(f"{name} is damaged: {one_line(error)[:_LONGEST]}")
    except (UserError, JaxRuntimeError, OSError, MemoryError):  # not damage
        raise
    except Exception as error:  # missing, cut or changed files raise any class
        reason = one_line(error.__cause__ or error)[:_LONGEST]
        damage = DamagedCheckpoint(f"{name} is damaged: {reason}")
    unreadable = np.array([damage is not None])
    if jax.process_count() > 1:
        unreadable = process_allgather(unreadable)
    if unreadable.any():
        raise damage or DamagedCheckpoint(
            f"{name} is damaged: process {int(unreadable.argmax())} cannot read its shard"
        )


def _undivided(array: Any) -> Any:
    """A copy in NumPy of a small array of which this process has every part; others as given."""
    is_small = isinstance(array, jax.Array) and array.nbytes < _SHARED_BYTES
    if not is_small or jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    return np.array(array) if array.is_fully_addressable else array


def _dtypes(state: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(state)]


def _named(meta: Mapping[str, Any], key: str) -> str:
    name = meta.get(f"{key} name")
    return repr(meta.get(key)) if name is None else f"{name} ({meta.get(key)})"


class QuietOrbax(logging.Filter):
    """Drops Orbax's progress messages, logged tracebacks and warnings about an unfinished save.

    Each of Orbax's threads logs a failed save with a traceback; the caller of `save` or `wait` gets
    the exception anyway. The unfinished save of a killed run is removed when its step is saved
    again.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        from_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
        is_expected = record.exc_info or "it is not finalized" in record.getMessage()
        return not from_orbax or (record.levelno >= logging.WARNING and not is_expected)


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
