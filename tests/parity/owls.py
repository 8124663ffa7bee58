"""Small mPLUG-Owls of ours whose language model is, or becomes, one of transformers."""

import jax
import numpy as np
from read_whole import read_subtrees

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import open_subtrees, save_model
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.vision.clip import ClipConfig

VISION = ClipConfig(28, 14, 32, 48, num_layers=2, num_heads=4)
ABSTRACTOR = AbstractorConfig(4, 32, 40, num_layers=1, num_heads=2)


def write_owl_around(language_model, target):
    """A whole model in the released form, with the language model of a plain directory."""
    opened = open_subtrees(language_model, ["llm"])
    config = OwlConfig(VISION, ABSTRACTOR, opened.config.llm)
    read = read_subtrees(language_model, ["llm"], np.float32)
    save_model(target, config, {**draw(config), **read}, "huggingface")
    return target


def draw(config, seed=0):
    """The whole tree, float32, no parameter as a fresh one would be: both factors of an adapter are
    random."""
    random = np.random.default_rng(seed)

    def leaf(path, x):
        noise = random.normal(size=x.shape)
        if path[-1].key in ("scale", "bias"):
            noise = (path[-1].key == "scale") + 0.2 * noise
        else:
            noise *= config.llm.hidden_size**-0.5
        return noise.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, abstract_params(config))


def small(llm):
    return OwlConfig(VISION, ABSTRACTOR, llm)
