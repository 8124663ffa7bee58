"""Initial parameters on the mesh: each subtree from the directory in `config.init`, or random."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from owl_jax.checkpoint.adapter_base import check_base
from owl_jax.checkpoint.hf_import import Opened
from owl_jax.checkpoint.hub_directory import model_directory
from owl_jax.checkpoint.int8 import quantize
from owl_jax.checkpoint.lazy_arrays import device_put_lazy, read
from owl_jax.checkpoint.model_directory import open_subtrees
from owl_jax.errors import UserError
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.parts import ConnectorPart, LanguagePart, VisionPart
from owl_jax.models.vlm import init_params
from owl_jax.training import config as settings
from owl_jax.training.train_program import TrainingProgram

Tree = dict[str, Any]


def initialize(config: ConfigDict, program: TrainingProgram) -> Tree:
    """The whole parameter tree, with the shapes, dtypes and shardings of `program.params`.

    Raises UserError for a directory whose weights do not fit the model, and an adapter for
    another base.
    """
    random = [name for name, value in config.init.items() if value == settings.FRESH]
    params = _random_params(program, random, config.seed) if random else {}
    directories: dict[str, list[str]] = {}
    for name, value in config.init.items():
        if value != settings.FRESH:
            directories.setdefault(value, []).append(name)
    for directory, names in directories.items():
        opened = open_subtrees(model_directory(directory), names)
        stored = dict(opened.params)
        if "vision" in names and program.model.vision is not None:
            stored["vision"] = program.model.vision.taken_from(stored["vision"])
            opened = _with_layers_note(opened, program.model)
        if "llm" in names:
            _check_fields("llm", opened.config, program.model, directory)
            stored["llm"] = _extended(opened, program.model)
        stored, notes = _refitted(stored, program, names)
        for name in names:
            found, wanted = opened.config.parts.get(name), program.model.parts.get(name)
            kinds = (found.architecture, wanted.architecture) if found and wanted else None
            _check_shapes(stored[name], program.params[name], f"{directory}: {name}", kinds)
            if name in ("vision", "connector"):
                _check_fields(name, opened.config, program.model, directory)
        if "llm" in names and config.frozen_dtype == settings.INT8:
            stored = quantize(program.model, stored)
        for name in names:
            params[name] = jax.tree.map(
                lambda leaf, array: device_put_lazy(array, leaf.dtype, leaf.sharding),
                program.params[name],
                stored[name],
            )
        dataclasses.replace(opened, notes=(*opened.notes, *notes)).print_notes(Path(directory))
    if config.init.get("lora", settings.FRESH) != settings.FRESH:
        llm = unrounded(config, params)["llm"]
        check_base(
            model_directory(config.init.lora), llm, config.init.llm, config.allow_base_mismatch
        )
    return params


def _with_layers_note(opened: Opened, model: OwlConfig) -> Opened:
    """Adds a note if the model uses only the opened encoder's first layers."""
    whole, used = opened.config.vision, model.vision
    if whole is None or used is None or whole.num_layers <= used.num_layers:
        return opened
    note = (
        f"the first {used.num_layers} of {whole.num_layers} layers of the vision encoder are used"
    )
    return dataclasses.replace(opened, notes=(*opened.notes, note))


def unrounded(config: ConfigDict, params: Tree) -> Tree:
    """The same tree, with an int8 language model replaced by its stored weights.

    An adapter belongs to the stored weights, and exports contain them.
    """
    if config.frozen_dtype != settings.INT8:
        return params
    opened = open_subtrees(model_directory(config.init.llm), ["llm"])
    return params | {"llm": _extended(opened, settings.read_model(config))}


def _extended(opened: Opened, model: OwlConfig) -> Tree:
    """The opened language model, with the weights that `model` adds to it."""
    llm: Tree = opened.params["llm"]
    same = opened.config.llm.architecture == model.llm.architecture
    return llm if same else dict(model.llm.extended(llm))


def _refitted(
    stored: Tree, program: TrainingProgram, names: list[str]
) -> tuple[Tree, tuple[str, ...]]:
    """(the subtrees, fitted to the model's picture size; a note for each changed parameter)."""
    result, notes = dict(stored), []
    for name in names:
        part = getattr(program.model, name)
        # Reading a language model only to learn that nothing in it can be fitted takes minutes.
        if not isinstance(part, VisionPart | ConnectorPart):
            continue
        flat, wanted = flatten_dict(stored[name]), flatten_dict(program.params[name])
        for path in flat.keys() & wanted.keys():
            found, shape = flat[path].shape, wanted[path].shape
            if found == shape:
                continue
            fitted = part.refitted(path, read(flat[path], flat[path].dtype), shape)
            if fitted is not None:
                flat[path] = fitted
                notes.append(f"{name}/{'/'.join(path)}: {found} fitted to {shape}")
        result[name] = unflatten_dict(flat)
    return result, tuple(sorted(notes))


def _random_params(program: TrainingProgram, names: list[str], seed: int) -> Tree:
    """Randomly initialised subtrees."""
    wanted = {name: program.params[name] for name in names}

    def make(key: jax.Array) -> Tree:
        params = nn.meta.unbox(init_params(program.model, Compute(), key))
        params = {name: params[name] for name in names}
        return jax.tree.map(lambda leaf, array: array.astype(leaf.dtype), wanted, params)

    # This runs once; on CPU, optimising it takes far longer than running it.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    shardings = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    init = jax.jit(make, out_shardings=shardings, compiler_options=fast)
    params: Tree = init(jax.random.key(seed))
    return params


def _check_shapes(loaded: Tree, expected: Tree, where: str, kinds: tuple[str, str] | None) -> None:
    """Raises UserError unless the shapes are equal. kinds: the architectures found and expected."""
    found = {path: leaf.shape for path, leaf in flatten_dict(loaded, sep="/").items()}
    wanted = {path: leaf.shape for path, leaf in flatten_dict(expected, sep="/").items()}
    # Quantisation adds the scales later.
    wanted = {
        path: shape
        for path, shape in wanted.items()
        if not (path.endswith("/scale") and f"{path.removesuffix('scale')}kernel" in wanted)
    }
    differences = [
        f"{path}: {found.get(path, 'missing')} instead of {wanted.get(path, 'nothing')}"
        for path in sorted(found.keys() | wanted.keys())
        if found.get(path) != wanted.get(path)
    ]
    if differences and kinds and kinds[0] != kinds[1]:
        raise UserError(f"{where} is {kinds[0]}, but config.model has {kinds[1]}; give another one")
    if differences:
        raise UserError(f"{where} does not fit config.model: {'; '.join(differences[:5])}")


def _check_fields(name: str, found: OwlConfig, expected: OwlConfig, directory: str) -> None:
    """Checks the fields that a subtree's weights depend on but that no shape reveals."""
    stored, part = found.parts[name], expected.parts[name]
    fields = list(part.DEFINING)
    if isinstance(part, LanguagePart) and stored.architecture != part.EXTENDS:
        fields = ["architecture", *fields]
    for field in fields:
        theirs, ours = getattr(stored, field, None), getattr(part, field)
        if theirs != ours and hasattr(stored, field):
            key = f"config.model.{name}.{field}"
            raise UserError(
                f"{directory} has {field} {theirs}, but {key} is {ours}; give "
                f"--{key}={shlex.quote(str(theirs))}"
            )
