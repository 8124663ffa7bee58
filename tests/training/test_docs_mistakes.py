"""The own parts of docs/add_a_*.md with mistakes in them: one line each, never a traceback."""

import json

import jax
import numpy as np
import pytest
from docs_page import blocks_of

import owl_jax
from owl_jax.checkpoint.hf_import import abstract_params, open_language, open_vision
from owl_jax.checkpoint.safetensors_writer import write_shards
from owl_jax.checkpoint.tensors import to_source
from owl_jax.errors import UserError
from owl_jax.models import vlm
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.families.mplug_owl import around
from owl_jax.models.own_parts import load_parts

ENCODER, MODEL = "add_a_vision_encoder.md", "add_a_language_model.md"
FROM_HF = "\n\n    @classmethod\n    def from_hf(cls, source):\n        return "


@pytest.fixture(autouse=True)
def _no_part_is_left():
    before = {kind: dict(parts) for kind, parts in PARTS.items()}
    yield
    for kind, parts in before.items():
        PARTS[kind].clear()
        PARTS[kind].update(parts)


def mistaken(page, old, new, directory):
    """The page's file with `new` in the place of `old`, as a module."""
    text = blocks_of(page)[0]
    assert old in text
    (directory / "part.py").write_text(text.replace(old, new))
    return load_parts(directory / "part.py")


def written(page, directory):
    """A directory of weights for the page's part without mistakes."""
    (directory / "good").mkdir()
    module = mistaken(page, "", "", directory / "good")
    weights = directory / "weights"
    weights.mkdir()
    values = next(block for block in blocks_of(page) if block.startswith("{"))
    (weights / "config.json").write_text(values)
    if page == ENCODER:
        part = module.PlainVitConfig(32, 16, 32, 64, 2, 2)
        params = {"vision": abstract_params(around(part))["vision"]}
    else:
        sizes = dict(zip(("max_positions", "head_width", "tied"), (256, 12, True), strict=True))
        part = module.ParallelConfig(340, 32, 64, 2, 4, 2, **sizes)
        params = abstract_params(OwlConfig(None, None, part))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    write_shards(to_source(part.weight_rows(), zeros), weights)
    for kind in ("vision", "llm"):
        PARTS[kind].pop(json.loads(values)["model_type"], None)
    return weights


@pytest.mark.parametrize(
    ("page", "old", "new", "message"),
    [
        (MODEL, ': Literal["parallel"]', "", "architecture must be its own field; write archi"),
        (MODEL, 'Literal["parallel"]', 'Literal["x"]', 'write architecture: Literal["parallel"] ='),
        (
            MODEL,
            "    HF_CLASS",
            "    DEFINING = ('theta',)\n    HF_CLASS",
            "DEFINING names theta",
        ),
        (
            ENCODER,
            "pixel_mean: Channels",
            "mean: Channels",
            "DEFINING names pixel_mean",
        ),
    ],
)
def test_what_a_part_says_of_itself(page, old, new, message, tmp_path):
    with pytest.raises(UserError) as error:
        mistaken(page, old, new, tmp_path)
    assert message in str(error.value) and "part.py: " in str(error.value)


@pytest.mark.parametrize(
    ("page", "old", "new", "message"),
    [
        (
            MODEL,
            '"gate_proj", embed',
            '"gate", embed',
            "parameter: llm/layers/gate_proj/kernel;",
        ),
        (MODEL, ' if "mlp_norm" not in row.target', "", "row: none"),
        (
            MODEL,
            "not in row.target",
            "not in row.targt",
            "part.py, line 35: AttributeError",
        ),
        (MODEL, "    @nn.nowrap\n", "    1 / 0\n", "part.py, line 41: ZeroDivisionError"),
        (MODEL, "config.rms_norm_eps", "config.eps", "part.py, line 75: AttributeError: 'Parallel"),
        (MODEL, "return x, stored", "return x", "part.py: ValueError: not enough values"),
        (
            MODEL,
            "        modality: Modality | None,\n",
            "",
            "part.py: TypeError: ParallelBlock",
        ),
        (MODEL, 'ForCausalLM"\n', f'"{FROM_HF}cls(source.x)\n', "part.py, line 32: AttributeError"),
        (
            MODEL,
            'ForCausalLM"\n',
            f'"{FROM_HF}None\n',
            "config.json: from_hf of Parallel",
        ),
        (
            ENCODER,
            '            *layer_norm("norm", "vision/norm"),\n',
            "",
            "a row: vision/norm/bias",
        ),
        (ENCODER, "startswith(", "begins(", "part.py, line 100: AttributeError: 'str' object"),
        (ENCODER, "found.width", "found.size", "part.py, line 74: AttributeError: 'Sizes' object"),
    ],
)
def test_reading_the_weights_of_a_part(page, old, new, message, tmp_path):
    weights = written(page, tmp_path)
    with pytest.raises(UserError) as error:
        mistaken(page, old, new, tmp_path)
        (open_vision if page == ENCODER else open_language)(weights)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "        return 0\n",
            "        return 1\n",
            "shape (1, 1, 4, 32); expected (1, 1, 5,",
        ),
        (
            "return x.reshape(N, T, P, D)",
            "return x",
            "shape (1, 4, 32); expected (1, 1, 4",
        ),
        (
            "return x.reshape(N, T, P, D)",
            "return x[0]",
            "vision encoder plain_vit: its module",
        ),
        ("LayerNorm(EPS, ", "LayerNorm(EPSS, ", "part.py, line 138: NameError: name 'EPSS' is not"),
    ],
)
def test_what_an_encoder_s_module_returns(old, new, message, tmp_path):
    vision = mistaken(ENCODER, old, new, tmp_path).PlainVitConfig(32, 16, 32, 64, 2, 2)
    with pytest.raises(UserError) as error:
        vlm.abstract_params(around(vision))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_language_model_that_fails_only_on_longer_texts(tmp_path):
    """Its shapes are found with one token, so the fault appears when it answers."""
    weights = written(MODEL, tmp_path)
    mistaken(MODEL, "        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)\n", "", tmp_path)
    owl = owl_jax.load(weights, "float32")
    with pytest.raises(UserError, match=r"part of your own, \S*part\.py, line \d+: \w+: ") as error:
        owl.generate([[5, 6, 7]], max_new_tokens=2)
    assert "\n" not in str(error.value)
