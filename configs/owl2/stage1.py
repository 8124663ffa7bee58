"""mPLUG-Owl2, stage 1: trains the vision tower, the abstractor and the visual weights of LLaMA.

    python -m owl_jax.train --config=configs/owl2/stage1.py --workdir=DIR

The paper's recipe (arXiv 2311.04257): image-text pairs. In the language model, only the second set
of norms and key and value projections is trained; it starts as a copy of the first. Images have 448
x 448 pixels as in stage 2; with config.model.vision.image_size=224 a step is cheaper, and stage 2
interpolates the positions. Schedule and optimizer are those of configs/stage1.py. This size needs a
TPU pod. Needs a vision encoder and LLaMA 2 (docs/weights.md) with its tokenizer, and image-text
pairs in any form of docs/data.md:

    weights/clip-vit-large-patch14, weights/llama-2-7b
    data/laion400m, data/coyo700m   folders of WebDataset tars as img2dataset writes them

A packed sequence has up to seventeen pairs, with 65 tokens per image.
"""

from ml_collections import ConfigDict

from owl_jax.models.families.mplug_owl2 import MPLUG_OWL2_7B
from owl_jax.training.config import base_config


def get_config() -> ConfigDict:
    config = base_config(MPLUG_OWL2_7B)
    config.model.vision.layer_norm_eps = 1e-5  # CLIP's, which stage 1 starts from; released: 1e-6
    config.epochs = 1.0
    config.steps = 10_000  # only for owl_jax.compile, which reads no data
    config.batch_size = 512
    config.gradient_accumulation_steps = 8
    config.init.vision = "weights/clip-vit-large-patch14"
    config.init.llm = config.tokenizer = "weights/llama-2-7b"
    config.rules = (
        ("(vision|connector)/.*", "visual"),
        ("llm/layers/visual_.*", "visual"),
        ("llm/.*", "frozen"),
    )
    config.recipes.visual = {
        "learning_rate": 1e-4,
        "warmup_steps": 2_000,
        "schedule": "cosine",
        "weight_decay": 0.1,
        "b1": 0.9,
        "b2": 0.98,
        "eps": 1e-6,
    }
    config.data.sequence_length = 2_048
    config.data.image_slots = 17
    config.data.augmentation = "caption"
    config.data.mixture = (
        ("data/laion400m", "1 epoch"),
        ("data/coyo700m", "1 epoch"),
    )
    return config
