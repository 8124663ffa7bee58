"""Every config that ships: it loads, what it names resolves, and it trains what it says it does."""

import inspect
import math
import re
import runpy
from pathlib import Path

import jax
import pytest
from flax.traverse_util import flatten_dict

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.models.families.mplug_owl import VARIANTS
from owl_jax.text.tokenizer import load_tokenizer
from owl_jax.training import config as settings
from owl_jax.training.optimizer import make_optimizer
from owl_jax.training.partition import assign, split, table

ROOT = Path(__file__).parents[1]

# What each config freezes, whole; it trains the other branches, whole.
FROZEN = {
    "stage1": {"llm"},
    "stage2": {"vision", "llm"},
    "stage2_full": {"vision", "connector"},
    "stage2_release": {"vision", "connector", "llm"},
    "demo/stage0": {"vision", "connector"},
    "demo/stage1": {"llm"},
    "demo/stage2": {"vision", "llm"},
    "demo/owleval": set(),
    "owl2/stage1": set(),
    "owl2/stage2": set(),
    "llava/stage1": {"vision", "llm"},
    "llava/stage2": {"vision"},
    "llava/stage2_lora": {"vision", "llm"},
    "modern:stage1": {"vision", "llm"},
    "modern:stage2": set(),
}

# What it freezes of a branch that it trains otherwise: all parameters that match.
PARTLY_FROZEN = {
    "owl2/stage1": {"connector": r".*/\w+_positions", "llm": r"(?!layers/visual_).*"},
    "owl2/stage2": {"connector": r".*/\w+_positions"},
}

# Sizes of the released models, added up by hand from their config.json.
VISION = 303_179_776  # CLIP ViT-L/14
ABSTRACTOR = 81_473_536
LLAMA = 6_738_415_616
BLOOMZ = 7_069_016_064
OWL2_VISION = VISION + (1025 - 257) * 1024  # positions of 448 pixels
OWL2_POSITIONS = 6 * (64 + 1025) * 1024  # of queries and of the grid, in each layer
OWL2_VISUAL = 32 * (2 * 4096 * 4096 + 2 * 4096)  # keys, values and two norms: 1,074,003,968
LLAVA_LAYER = 12 * 1024 * 1024 + 13 * 1024  # of CLIP: matrices, biases and norms: 12,596,224
LLAVA_VISION = VISION + (577 - 257) * 1024 - LLAVA_LAYER - 2 * 1024  # without the last norm
LLAVA_MLP = (1024 + 1) * 4096 + (4096 + 1) * 4096  # 20,979,712
LLAVA_LORA = 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))  # all projections: 319,815,680
LORA_LLAMA = 32 * 2 * 8 * (4096 + 4096)  # layers, projections, rank, both factors: 4,194,304
LORA_BLOOMZ = 30 * 8 * (4096 + 3 * 4096)  # one fused projection a layer: 3,932,160


def load(name, argument=None):
    get_config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]
    if argument is None:
        return get_config()
    return get_config(argument)


def find_configs():
    """(name, argument) of all that --config takes: released variants, or stages."""
    found = []
    for path in sorted((ROOT / "configs").rglob("*.py")):
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            continue
        name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
        arguments = {"name": [*VARIANTS], "stage": ["stage1", "stage2"]}
        takes = [*inspect.signature(get_config).parameters, ""][0]
        found += [(name, argument) for argument in arguments.get(takes, [None])]
    return found


SHIPPED = find_configs()


def key(name, argument):
    """The entry of FROZEN: stages freeze differently, variants do not."""
    return f"{name}:{argument}" if str(argument).startswith("stage") else name


def resolve(config):
    """Shapes, labels and recipes, made as training/loop.py makes them."""
    shapes = abstract_params(settings.read_model(config))
    rules, recipes = settings.read_recipes(config)
    return shapes, assign(shapes, rules, set(recipes)), recipes


def sizes(tree):
    """Parameters of each branch."""
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(branch))
        for name, branch in tree.items()
    }


def test_every_config_is_listed_here():
    assert {key(name, argument) for name, argument in SHIPPED} == FROZEN.keys()


@pytest.mark.parametrize(("name", "argument"), SHIPPED)
def test_a_config_resolves(name, argument):
    config = load(name, argument)
    settings.check_values(config)
    settings.read_compute(config)
    shapes, labels, recipes = resolve(config)
    trainable, frozen = split(shapes, labels)
    partly = PARTLY_FROZEN.get(name, {})
    frozen_whole = FROZEN[key(name, argument)]
    assert frozen.keys() == frozen_whole | partly.keys()
    assert trainable.keys() == shapes.keys() - frozen_whole
    for branch, pattern in partly.items():
        for path in flatten_dict(shapes[branch], sep="/"):
            found = path in flatten_dict(frozen[branch], sep="/")
            assert found == bool(re.fullmatch(pattern, path)), path
    assert set(config.recipes) == set(recipes)
    make_optimizer(recipes, split(labels, labels)[0], config.steps, config.clip_norm)

    printed = table(shapes, labels, recipes).splitlines()
    total, trained = sum(sizes(shapes).values()), sum(sizes(trainable).values())
    assert printed[-1].split() == ["total", f"{total:,}", f"{trained:,}"]
    # A header and a rule above, a rule and the total below; a line for each branch and recipe.
    listed = [line.split()[:2] for line in printed[2:-2]]
    assert sorted({branch for branch, _ in listed}) == sorted(shapes)
    assert {recipe for _, recipe in listed} - {"frozen"} == set(recipes)

    assert set(config.init) == shapes.keys()
    assert config.data.sequence_length <= getattr(
        settings.read_model(config).llm, "max_positions", 2048
    )
    assert settings.read_mixture(config)
    own = {path for path in flatten_dict(config.to_dict()) if path[0] != "model"}
    assert len(own) <= 66


@pytest.mark.parametrize(
    ("name", "argument", "trained", "kept"),
    [
        ("stage1", "llama", {"vision": VISION, "connector": ABSTRACTOR}, {"llm": LLAMA}),
        ("stage1", "bloomz", {"vision": VISION, "connector": ABSTRACTOR}, {"llm": BLOOMZ}),
        (
            "stage2",
            "llama",
            {"lora": LORA_LLAMA, "connector": ABSTRACTOR},
            {"vision": VISION, "llm": LLAMA},
        ),
        (
            "stage2",
            "bloomz",
            {"lora": LORA_BLOOMZ, "connector": ABSTRACTOR},
            {"vision": VISION, "llm": BLOOMZ},
        ),
        (
            "stage2_release",
            "llama",
            {"lora": LORA_LLAMA},
            {"vision": VISION, "connector": ABSTRACTOR, "llm": LLAMA},
        ),
        ("stage2_full", "llama", {"llm": LLAMA}, {"vision": VISION, "connector": ABSTRACTOR}),
        (
            "owl2/stage1",
            None,
            {"vision": OWL2_VISION, "connector": ABSTRACTOR, "llm": OWL2_VISUAL},
            {"connector": OWL2_POSITIONS, "llm": LLAMA},
        ),
        (
            "owl2/stage2",
            None,
            {"vision": OWL2_VISION, "connector": ABSTRACTOR, "llm": LLAMA + OWL2_VISUAL},
            {"connector": OWL2_POSITIONS},
        ),
        (
            "llava/stage1",
            None,
            {"connector": LLAVA_MLP},
            {"vision": LLAVA_VISION, "llm": LLAMA},
        ),
        (
            "llava/stage2",
            None,
            {"connector": LLAVA_MLP, "llm": LLAMA},
            {"vision": LLAVA_VISION},
        ),
        (
            "llava/stage2_lora",
            None,
            {"connector": LLAVA_MLP, "lora": LLAVA_LORA},
            {"vision": LLAVA_VISION, "llm": LLAMA},
        ),
    ],
)
def test_full_size_configs_train_what_the_paper_trains(name, argument, trained, kept):
    shapes, labels, _ = resolve(load(name, argument))
    assert tuple(sizes(tree) for tree in split(shapes, labels)) == (trained, kept)


def test_the_adapter_of_the_release_is_4_194_304_parameters():
    assert LORA_LLAMA == 4_194_304
    shapes, _, _ = resolve(load("stage2_release"))
    assert {path[-2:]: leaf.shape for path, leaf in flatten_dict(shapes["lora"]).items()} == {
        ("q_proj", "a"): (32, 4096, 8),
        ("q_proj", "b"): (32, 8, 32, 128),
        ("v_proj", "a"): (32, 4096, 8),
        ("v_proj", "b"): (32, 8, 32, 128),
    }


def test_the_paper_s_recipes():
    """arXiv 2304.14178, section 4.1, and the released script."""
    one, two, release = load("stage1"), load("stage2"), load("stage2_release")
    recipe = one.recipes.visual
    assert (one.steps, recipe.warmup_steps, recipe.learning_rate) == (50_000, 2_000, 1e-4)
    assert one.batch_size * one.data.sequence_length == pytest.approx(2.1e6, rel=0.01)
    # Packed: a row of 2,048 holds 4.2 conversations of this mixture (docs/benchmarks.md).
    assert two.data.pack and (two.steps, two.batch_size * 4) == (2_000, 256)
    for recipe in (one.recipes.visual, two.recipes.lora, two.recipes.connector):
        assert (recipe.b1, recipe.b2, recipe.eps, recipe.weight_decay) == (0.9, 0.98, 1e-6, 0.1)
    assert two.recipes.lora.learning_rate == two.recipes.connector.learning_rate == 2e-5
    assert (release.steps, release.clip_norm, release.data.sequence_length) == (4_236, 1.0, 2_048)
    assert release.recipes.lora.weight_decay == 1e-4
    assert dict(release.model.lora) == {
        "rank": 8,
        "alpha": 32.0,
        "dropout": 0.05,
        "targets": ("q_proj", "v_proj"),
    }


def test_the_recipe_of_mplug_owl2():
    """arXiv 2311.04257: stage 2 for one epoch, batch 256, 2e-5, 448 pixels."""
    one, two = load("owl2/stage1"), load("owl2/stage2")
    # Packed, as in stage 2 of mPLUG-Owl.
    assert two.data.pack and (two.epochs, two.batch_size * 4) == (1.0, 256)
    assert two.recipes.all.learning_rate == 2e-5
    assert one.model.vision.image_size == two.model.vision.image_size == 448


def test_the_recipes_of_llava():
    """haotian-liu/LLaVA, scripts/v1_5: pretrain.sh, finetune.sh and finetune_lora.sh."""
    one, two, lora = (load(f"llava/{name}") for name in ("stage1", "stage2", "stage2_lora"))
    # Packed: four pairs of a picture and a caption, or two conversations.
    assert (one.epochs, one.batch_size * 4, two.epochs, two.batch_size * 2) == (1.0, 256, 1.0, 128)
    assert one.recipes.connector.learning_rate == 1e-3
    assert two.recipes.trained.learning_rate == 2e-5
    assert lora.recipes.lora.learning_rate == 2e-4
    assert lora.recipes.connector.learning_rate == 2e-5
    assert (lora.model.lora.rank, lora.model.lora.alpha, lora.model.lora.dropout) == (
        128,
        256,
        0.05,
    )
    assert one.model.resizing.kind == two.model.resizing.kind == "pad"
    assert (one.model.conversation, two.model.conversation) == ("plain", "vicuna_v1")
    for config in (one, two, lora):
        model = settings.read_model(config)
        assert model.num_tokens("image") == 576
        for recipe in config.recipes.values():
            assert recipe.schedule == "cosine" and "weight_decay" not in recipe
            assert recipe.warmup_steps == round(0.03 * config.steps)


@pytest.mark.parametrize("name", [name for name, _ in SHIPPED if name.startswith("demo/stage")])
def test_the_demonstration_needs_nothing_that_is_not_shipped(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load(name)
    settings.check_directories(config)
    ids = load_tokenizer(config.tokenizer).encode("What colour is the square?")
    assert max(ids) < config.model.llm.vocab_size
