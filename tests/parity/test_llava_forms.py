"""LLaVA-1.5 as transformers and its authors write it, and as we do: the same numbers everywhere."""

import json
import shutil

import numpy as np
import peft
import pytest
import reference
import torch
import transformers
from safetensors.torch import load_file, save_file

import owl_jax
from owl_jax.errors import UserError

IMAGE_TOKEN = 70
SIGLIP = {
    "image_size": 42,
    "patch_size": 14,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
# A picture of each tower: CLIP drops its class token.
PICTURE = 9
QUESTION = [1, 5, 17, *[-1] * PICTURE, 30, 41, 2]


def llava(vision, layer, strategy):
    """A LLaVA of transformers whose every parameter is random."""
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**reference.LLAMA),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    return reference.randomized(transformers.LlavaForConditionalGeneration(config))


def clip(layer=-2):
    return llava(transformers.CLIPVisionConfig(**reference.VISION), layer, "default")


def siglip():
    return llava(transformers.SiglipVisionConfig(**SIGLIP, vision_use_head=False), -1, "full")


MODELS = {"clip": clip, "clip at its last layer": lambda: clip(-1), "siglip": siglip}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


# What transformers 5.23 saves, and the names of other versions and of the modules in memory.
SAVED = ("language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_project")
NAMES = {
    "as saved": SAVED,
    "4": (*SAVED[:2], "vision_tower.vision_model.", SAVED[3]),
    "5": (
        *("model.language_model.", "lm_head."),
        *("model.vision_tower.", "model.multi_modal_project"),
    ),
    "authors": (*SAVED[:2], "vision_tower.vision_model.", SAVED[3]),
}


def write(model, directory, form):
    """The model in the names of NAMES; in the authors', with the vision tower beside it."""
    model.save_pretrained(directory)
    path = directory / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        saved, other = next(
            pair for pair in zip(SAVED, NAMES[form], strict=True) if name.startswith(pair[0])
        )
        tensors[other + name.removeprefix(saved)] = tensor.clone()
    if form == "authors":
        tensors = write_tower(model, directory.parent / "tower", tensors)
        write_authors_config(model, directory)
    save_file(tensors, path)
    return directory


def write_tower(model, directory, tensors):
    """The vision tower as a directory of its own; returns the other tensors, in authors' names."""
    prefix = "vision_tower."
    directory.mkdir()
    tower = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    save_file(tower, directory / "model.safetensors")
    model.config.vision_config.save_pretrained(directory)
    others = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            name = name.removeprefix("language_model.")
            for number in (1, 2):
                linear = f"multi_modal_projector.linear_{number}."
                name = name.replace(linear, f"model.mm_projector.{2 * number - 2}.")
            others[name] = tensor
    return others


def write_authors_config(model, directory):
    values = {
        **model.config.text_config.to_dict(),
        "model_type": "llava",
        "mm_vision_tower": "openai/tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": model.config.vision_feature_layer,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
    }
    (directory / "config.json").write_text(json.dumps(values))


def pixels(model, count):
    size = model.config.vision_config.image_size
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


@torch.no_grad()
def their_logits(model, ids, pictures):
    ids = torch.from_numpy(np.where(ids == -1, IMAGE_TOKEN, ids))
    images = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    return model(input_ids=ids, pixel_values=images).logits.numpy()


def assert_same(owl, model):
    """Logits of a batch with two pictures in one sequence and one in the other; a greedy answer."""
    ids = np.array([[*QUESTION, *QUESTION], [*QUESTION, *range(3, 3 + len(QUESTION))]])
    pictures = pixels(model, 3)
    reference.assert_close(owl.logits(ids, pictures), their_logits(model, ids, pictures))
    one = np.array([QUESTION])
    answer = owl.generate(one, pictures[:1], max_new_tokens=6, eos_token_id=-1)
    for token in answer[0]:
        assert their_logits(model, one, pictures[:1])[0, -1].argmax() == token
        one = np.append(one, [[token]], axis=1)


@pytest.mark.parametrize("form", NAMES)
def test_every_form_gives_the_same_numbers(model, form, tmp_path):
    if form == "authors" and model.config.vision_config.model_type != "clip_vision_model":
        form = "4"  # the authors have no other tower
    owl = owl_jax.load(write(model, tmp_path / "model", form), "float32")
    assert owl.num_tokens("image") == PICTURE
    assert owl.config.conversation == "vicuna_v1"
    assert owl.config.resizing.kind == ("pad" if form == "authors" else "squash")
    assert_same(owl, model)


def test_a_processor_of_transformers_5_says_how_pictures_become_squares(tmp_path):
    directory = write(clip(), tmp_path / "model", "5")
    size = {"height": 42, "width": 42}
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size=size)
    section = {"image_processor": processor.to_dict(), "patch_size": 14}
    (directory / "processor_config.json").write_text(json.dumps(section))
    owl = owl_jax.load(directory)
    assert owl.config.resizing.kind == "crop"
    owl.save(tmp_path / "saved")
    assert owl_jax.load(tmp_path / "saved").config == owl.config


def test_our_export_is_read_by_transformers(model, tmp_path):
    owl = owl_jax.load(write(model, tmp_path / "model", "5"), "float32")
    owl.save(tmp_path / "saved")
    again = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    assert again.config.image_token_id == IMAGE_TOKEN
    assert_same(owl, again)
    assert_same(owl_jax.load(tmp_path / "saved", "float32"), model)


def test_our_export_in_the_authors_form(tmp_path):
    model = clip()
    directory = write(model, tmp_path / "model", "authors")
    owl = owl_jax.load(directory, "float32")
    owl.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    for name, tensor in load_file(directory / "model.safetensors").items():
        assert torch.equal(saved[name], tensor), name
    shutil.rmtree(tmp_path / "tower")  # the saved model has its own
    assert_same(owl_jax.load(tmp_path / "saved", "float32"), model)


@pytest.mark.parametrize(
    "targets", [r".*language_model.*\.(q|down)_proj", r"model\.language_model\.layers\..*\.v_proj"]
)
def test_peft_s_adapter_is_read(targets, tmp_path):
    model = clip()
    directory = write(model, tmp_path / "model", "4")
    options = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, options).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    assert_same(owl_jax.load(directory, "float32", tmp_path / "adapter"), adapted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_vision_tower": "openai/elsewhere"}, "mm_vision_tower is 'openai/elsewhere'; no such"),
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type is 'mlp3x_gelu'; expected linear"),
        ({"mm_vision_select_layer": -9}, "mm_vision_select_layer: layer -9; expected 1 to 3"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True; LLaVA-1.5 has False"),
    ],
)
def test_other_models_of_the_authors_are_refused(change, message, tmp_path):
    directory = write(clip(), tmp_path / "model", "authors")
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(UserError, match=message):
        owl_jax.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config": None}, "no vision_config; expected the config of a LLaVA model"),
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer is \[-2, -1\]; expected one"),
        ({"vision_feature_select_strategy": "x"}, "strategy is 'x'; expected default or full"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'; owl_jax's LLaVA has"),
        ({"text_config": {"model_type": "gpt2"}}, "language model 'gpt2'; expected one of"),
    ],
)
def test_other_models_of_transformers_are_refused(change, message, tmp_path):
    directory = write(clip(), tmp_path / "model", "5")
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(UserError, match=message):
        owl_jax.load(directory)


def test_a_tower_without_class_token_has_none_to_drop(tmp_path):
    directory = write(siglip(), tmp_path / "model", "5")
    values = json.loads((directory / "config.json").read_text())
    values["vision_feature_select_strategy"] = "default"
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="siglip has no class token; expected 'full'"):
        owl_jax.load(directory)
