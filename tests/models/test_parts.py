"""Only a part's own file and its families may name it."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict
from small_parts import small

import owl_jax
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.errors import UserError
from owl_jax.models.config import PARTS
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.connectors.token_merge import TokenMergeConfig
from owl_jax.models.families.mplug_owl import VARIANTS
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.parts import Part
from owl_jax.models.vision.clip import ClipConfig

PACKAGE = Path(owl_jax.__file__).parent
KINDS = [part for kinds in PARTS.values() for part in kinds.values()]
OWN = {"vision", "connectors", "language", "families"}


def names_and_texts(tree):
    """Identifiers and strings of a module, without its docstrings."""
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docs.add(first.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name.rpartition(".")[2]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
            yield node.value


def test_no_part_is_named_outside_its_file_and_its_families():
    classes = {part.__name__ for part in KINDS}
    classes |= {part.__name__.removesuffix("Config") for part in KINDS}
    named = classes | {name for kinds in PARTS.values() for name in kinds}
    assert {"AbstractorConfig", "Bloom", "llama"} <= named
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).parts
        if inside[0] in ("demo", "former_keys.py") or (inside[0] == "models" and inside[1] in OWN):
            continue
        text = path.read_text(encoding="utf-8")
        found += [
            f"{'/'.join(inside)}: {name}"
            for name in names_and_texts(ast.parse(text))
            # An array is clipped, and a video is one; an MLP's width is a dimension.
            if name in named - {"clip", "mlp"}
        ]
    assert found == []


def test_every_part_has_the_fields_that_its_interface_promises():
    missing = [
        f"{part.__name__}.{name}"
        for kinds in PARTS.values()
        for part in kinds.values()
        for base in part.__mro__
        if base.__module__ == Part.__module__
        for name, kind in inspect.get_annotations(base).items()
        if not kind.startswith("ClassVar") and not hasattr(part, name)
    ]
    assert missing == []


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_connector_defines_the_tokens_of_a_medium(config):
    assert config.num_tokens("image") == config.num_tokens("video", 4) == 65
    assert config.num_tokens("image") == config.num_query_tokens + 1 == 65
    with pytest.raises(UserError, match="medium 'sound'; expected image or video"):
        config.num_tokens("sound")


@pytest.mark.parametrize("kind", ["vision", "connector"])
def test_weight_rows_name_every_parameter_once(kind):
    for part in PARTS[kind].values():
        config = VARIANTS["llama"]
        if kind == "vision":
            vision = small(part)
            config = dataclasses.replace(config, vision=vision, connector=MlpConfig(16))
        else:
            vision = dataclasses.replace(small(ClipConfig), class_token_output=False)
            config = dataclasses.replace(config, vision=vision, connector=small(part))
        config = dataclasses.replace(config, llm=small(LlamaConfig))
        rows = getattr(config, kind).weight_rows()
        shapes = flatten_dict(abstract_params(config)[kind], sep="/")
        assert {row.target for row in rows} == {f"{kind}/{path}" for path in shapes}
        names = [row.source for row in rows]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("part", KINDS, ids=lambda part: part.__name__)
def test_a_part_s_architecture_is_its_key(part):
    (key,) = [name for kinds in PARTS.values() for name, kind in kinds.items() if kind is part]
    assert part().architecture == key
    assert part().problems("it") == []
    # Other parts have the sizes of the only matrix of this connector.
    assert part().num_parameters() > 1e6 or part is TokenMergeConfig
    assert set(part.INIT_ONLY) <= set(part.__dataclass_fields__)
