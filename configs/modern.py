"""A model made of current parts: SigLIP, LLaVA's MLP and Qwen2.5-7B, in two stages.

    python -m owl_jax.train --config=configs/modern.py:stage1 --workdir=DIR
    python -m owl_jax.train --config=configs/modern.py:stage2 --workdir=DIR

A starting point for your own model, not a published recipe. The stages and learning rates are
LLaVA-1.5's (configs/llava), but stage 2 also trains the vision encoder, at a tenth of the rate. An
image of 384 x 384 pixels takes 729 tokens; its features are those before SigLIP's last layer. The
conversation format is Qwen's. To use another part, replace its line. Llama 3.2, for example, is

    LlamaConfig(vocab_size=128_256, hidden_size=3072, intermediate_size=8192, num_layers=28, ...)

with every field as in its config.json. Needs the parts (docs/weights.md), and data in any form of
docs/data.md:

    weights/siglip-so400m-patch14-384, weights/qwen2.5-7b-instruct; runs/modern/stage1/model
    data/captions.jsonl, data/conversations.jsonl
"""

from ml_collections import ConfigDict

from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.language.qwen2 import Qwen2Config
from owl_jax.models.vision.siglip import SiglipConfig
from owl_jax.training.config import base_config

MODEL = OwlConfig(
    SiglipConfig().at_layer(-2, class_token=False),
    MlpConfig(hidden_size=3584),
    Qwen2Config(),
    conversation="chatml",
)


def get_config(stage: str = "stage1") -> ConfigDict:
    config = base_config(MODEL)
    config.epochs = 1.0
    config.steps = 5_000  # only for owl_jax.compile, which reads no data
    config.batch_size = 64
    config.init.vision = "weights/siglip-so400m-patch14-384"
    config.init.llm = config.tokenizer = "weights/qwen2.5-7b-instruct"
    recipe = {"schedule": "cosine", "warmup_steps": 150}
    if stage == "stage1":
        config.rules = (("connector/.*", "connector"), ("(vision|llm)/.*", "frozen"))
        config.recipes.connector = {"learning_rate": 1e-3, **recipe}
        mixture = "data/captions.jsonl"
    else:
        config.init.connector = "runs/modern/stage1/model"
        config.rules = (("vision/.*", "vision"), ("(connector|llm)/.*", "rest"))
        config.recipes.vision = {"learning_rate": 2e-6, **recipe}
        config.recipes.rest = {"learning_rate": 2e-5, **recipe}
        mixture = "data/conversations.jsonl"
    config.data.sequence_length = 3_072
    config.data.image_slots = 4
    config.data.mixture = ((mixture, "1 epoch"),)
    return config
