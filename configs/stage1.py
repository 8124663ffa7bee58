"""Stage 1: trains vision tower and abstractor on image-text pairs under a frozen language model.

    python -m owl_jax.train --config=configs/stage1.py --workdir=DIR
    python -m owl_jax.train --config=configs/stage1.py:bloomz --workdir=DIR

The recipe of the paper (arXiv 2304.14178, section 3.2): 50,000 steps of 2.1 M tokens, AdamW, peak
1e-4 after 2,000 steps, cosine, 224 px. A packed sequence has about sixteen pairs with 65 tokens for
each image. This size needs a TPU pod. The abstractor is randomly initialised, as in the paper.
Needs a vision encoder and a language model (docs/weights.md), its tokenizer, and the pairs, each
source in proportion to its size:

    data/laion400m, data/coyo700m   folders of WebDataset tars as img2dataset writes them
    data/conceptual_captions        the same; CC3M, or CC12M, or both in one folder
    data/coco_captions.jsonl        {"image": "train2017/000000000009.jpg", "caption": "..."} a line

To monitor the loss on held-out pairs, add config.evaluators (docs/training.md):

    config.evaluators = [HeldOutLoss("data/coco_val_captions.jsonl", sequences=1_024, every=1_000)]

docs/data.md lists other kinds of sources, and says how to convert them to shards that read faster.
"""

from ml_collections import ConfigDict

from owl_jax.models.families.mplug_owl import variant
from owl_jax.training.config import base_config


def get_config(name: str = "llama") -> ConfigDict:
    config = base_config(variant(name))
    config.steps = 50_000
    config.batch_size = 1_024
    config.gradient_accumulation_steps = 16
    config.init.vision = config.init.llm = f"weights/mplug-owl-{name}"  # or CLIP's and LLaMA's
    config.rules = (
        ("(vision|connector)/.*", "visual"),
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
        ("data/conceptual_captions", "1 epoch"),
        ("data/coco_captions.jsonl", "1 epoch"),
    )
    return config
