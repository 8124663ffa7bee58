"""Imports run one way: from commands down to errors, never back up (ARCHITECTURE.md)."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Packages and modules of owl_jax, from the top down; "" is owl_jax/__init__.py. A module imports
# its own level and those below. Within a level no two packages import each other.
LEVELS = (
    {"train", "chat", "convert", "prepare", "compile", "evaluate", "serve", "generate", "ablation"}
    | {"preview", "data.preview", "scripts"},
    {"demo", "serving", "evaluation", "training", "aot", ""},
    {"inference", "data", "checkpoint", "parallel"},
    {"models", "text", "media"},
    {"cli", "hub", "pages", "python_file", "shipped"},
    {
        *("errors", "files", "former_keys", "malloc", "sealed_json", "streams"),
        *("command_names", "version"),
    },
)

# The demonstration is imported by its own commands only.
MAY_IMPORT_DEMO = {
    "owl_jax.ablation",  # a command by another name than its package's
    "owl_jax.scripts",  # the commands by their names in a shell
}


def modules_under(folder):
    """The modules of owl_jax by name, and their paths."""
    paths = sorted((folder / "owl_jax").rglob("*.py"))
    names = (".".join(path.relative_to(folder).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports_of(source, modules):
    """The modules of owl_jax that a file imports or runs, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & modules) or {node.module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # What runpy and importlib get.
            found |= {node.value} if re.fullmatch(r"owl_jax(\.\w+)+", node.value) else set()
    return {name for name in found if name.partition(".")[0] == "owl_jax"}


def part_of(module):
    """The entry of LEVELS that a module belongs to."""
    names = module.split(".")[1:]
    inner = ".".join(names[:2])
    return inner if any(inner in level for level in LEVELS) else "".join(names[:1])


def level_of(module):
    levels = [number for number, level in enumerate(LEVELS) if part_of(module) in level]
    assert levels, f"{module}: give {part_of(module)!r} a place in LEVELS"
    return levels[0]


def faults_of(imports):
    """What is wrong with {module: modules that it imports}, a line each."""
    faults = []
    within = {}
    for module, imported in sorted(imports.items()):
        for other in sorted(imported):
            if level_of(other) < level_of(module):
                faults.append(f"{module} imports {other}, which is above it")
            elif part_of(other) != part_of(module) and module not in MAY_IMPORT_DEMO:
                within.setdefault(part_of(module), set()).add(part_of(other))
            if part_of(other) == "demo" != part_of(module) and module not in MAY_IMPORT_DEMO:
                faults.append(f"{module} imports the demonstration: {other}")
    try:
        graphlib.TopologicalSorter(within).prepare()
    except graphlib.CycleError as error:
        faults.append(f"packages import each other: {' <- '.join(error.args[1])}")
    return faults


def test_no_import_runs_back_up():
    paths = modules_under(ROOT)
    imports = {name: imports_of(path.read_text(), set(paths)) for name, path in paths.items()}
    assert len(imports) > 100 and sum(map(len, imports.values())) > 500
    assert faults_of(imports) == []


def test_every_part_has_one_level():
    assert len(set().union(*LEVELS)) == sum(map(len, LEVELS))


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import owl_jax.data.batch as batch, jax", {"owl_jax.data.batch"}),
        ("from owl_jax import cli, load", {"owl_jax.cli"}),
        ("from owl_jax import load", {"owl_jax"}),
        ("from owl_jax.data.batch import Batch", {"owl_jax.data.batch"}),
        ("def late():\n    from owl_jax.demo import scenes", {"owl_jax.demo.scenes"}),
        ('runpy.run_module("owl_jax.demo.scenes")', {"owl_jax.demo.scenes"}),
        ("import owl_jaxon, numpy\n'see owl_jax.demo'", set()),
    ],
)
def test_what_counts_as_an_import(source, imported):
    modules = {"owl_jax.cli", "owl_jax.data.batch", "owl_jax.demo.scenes"}
    assert imports_of(source, modules) == imported


@pytest.mark.parametrize(
    ("imports", "fault"),
    [
        ({"owl_jax.data.batch": {"owl_jax.training.loop"}}, "loop, which is above it"),
        ({"owl_jax.files": {"owl_jax.cli"}}, "cli, which is above it"),
        ({"owl_jax.data.preview": {"owl_jax.preview"}}, None),
        ({"owl_jax.train": {"owl_jax.demo.scenes"}}, "imports the demonstration"),
        ({"owl_jax.demo.__main__": {"owl_jax.demo.scenes"}}, None),
        ({"owl_jax.data.a": {"owl_jax.aot"}, "owl_jax.aot": {"owl_jax.data.a"}}, "above it"),
        ({"owl_jax.aot": {"owl_jax.training"}, "owl_jax.training": {"owl_jax.aot"}}, "each other"),
    ],
)
def test_faults_are_found(imports, fault):
    faults = faults_of(imports)
    assert len(faults) == (fault is not None)
    assert not fault or fault in faults[0]


def test_a_part_without_a_level_is_named():
    with pytest.raises(AssertionError, match="give 'rooms' a place in LEVELS"):
        faults_of({"owl_jax.rooms.attic": {"owl_jax.errors"}})
