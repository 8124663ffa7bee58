"""Stage 2: trains LoRA on the language model, and the abstractor, to follow instructions.

    python -m owl_jax.train --config=configs/stage2.py --workdir=DIR
    python -m owl_jax.train --config=configs/stage2.py:bloomz --workdir=DIR
    python -m owl_jax.train --config=configs/stage2.py:video --workdir=DIR

The recipe of the paper (arXiv 2304.14178, sections 3.2 and 4.1): text-only and multimodal
instructions together, vision tower and base language model frozen, 2,000 steps of batch 256 at
2e-5; optimizer as in stage 1. In bfloat16 the frozen 7B takes 14 GB, sharded over all devices.
Needs a stage 1 model directory, its tokenizer and the data, in the paper's proportions:

    data/alpaca.jsonl   102k instructions (tatsu-lab/stanford_alpaca), text-only
    data/vicuna.jsonl   90k conversations (ShareGPT), text-only
    data/baize.jsonl    50k conversations (project-baize/baize-chatbot), text-only
    data/llava.json     150k (liuhaotian/LLaVA-Instruct-150K, llava_instruct_150k.json), with the
                        COCO images in data/train2017

The first three have {"messages": [{"role": "user", "content": "..."}, ...]} on each line, or any
other form of docs/data.md. A packed sequence of 2,048 tokens has about four conversations and up to
two images; give more image_slots to conversations with more images. To monitor the loss on held-out
conversations, add config.evaluators (docs/training.md):

    config.evaluators = [HeldOutLoss("data/heldout.jsonl", sequences=128, every=200)]
"""

import dataclasses

from ml_collections import ConfigDict

from owl_jax.models.families.mplug_owl import LORA, variant
from owl_jax.training.config import base_config


def get_config(name: str = "llama") -> ConfigDict:
    config = base_config(dataclasses.replace(variant(name), lora=LORA[name]))
    config.steps = 2_000
    config.batch_size = 64  # packed sequences of about four conversations: the recipe's 256
    config.init.vision = config.init.connector = config.init.llm = f"weights/mplug-owl-{name}"
    config.tokenizer = f"weights/mplug-owl-{name}"
    config.rules = (
        ("lora/.*", "lora"),
        ("connector/.*", "connector"),
        ("(vision|llm)/.*", "frozen"),
    )
    recipe = {
        "learning_rate": 2e-5,
        "schedule": "cosine",
        "warmup_steps": 50,
        "weight_decay": 0.1,
        "b1": 0.9,
        "b2": 0.98,
        "eps": 1e-6,
    }
    config.recipes.lora = dict(recipe)
    config.recipes.connector = dict(recipe)
    config.data.image_slots = 2
    config.data.video_slots = 1 if name == "video" else 0
    config.data.mixture = (
        ("data/alpaca.jsonl", 102.0),
        ("data/vicuna.jsonl", 90.0),
        ("data/baize.jsonl", 50.0),
        ("data/llava.json", 150.0, "data/train2017"),
    )
    return config
