"""Small models of transformers with random weights: saved, run, and compared with ours.

Letters: B rows, L positions, N pictures, S picture side, V vocabulary.
"""

import json

import numpy as np
import torch
import transformers

# Of float32 on both sides, with logits and hidden states of the order of 1.
TOLERANCE = 2e-5

# Both forms of a file, whole and in shards with an index.
FORMS = ("safetensors", "safetensors shards", "bin", "bin shards")

LLAMA = {
    "vocab_size": 71,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "rope_theta": 5000.0,
}
BLOOM = {"vocab_size": 67, "hidden_size": 48, "n_layer": 3, "n_head": 6}
VISION = {
    "image_size": 42,
    "patch_size": 14,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def llama(**changes):
    """A LLaMA; fewer key heads than heads, and no default for its angles."""
    config = transformers.LlamaConfig(**{**LLAMA, **changes})
    return randomized(transformers.LlamaForCausalLM(config))


def bloom(kind=transformers.BloomForCausalLM, **changes):
    """A BLOOM; its number of heads is no power of two."""
    return randomized(kind(transformers.BloomConfig(**{**BLOOM, **changes})))


def clip_vision(**changes):
    """CLIP's vision tower alone."""
    config = transformers.CLIPVisionConfig(**{**VISION, **changes})
    return randomized(transformers.CLIPVisionModel(config))


def clip():
    """A whole CLIP, with a text tower of another width."""
    text = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return randomized(transformers.CLIPModel(config))


@torch.no_grad()
def randomized(model, seed=0):
    """Every parameter drawn anew: those of transformers have no biases and norms of 1 at first."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(name.endswith("norm.weight") + 0.2 * noise)
    return model.eval()


def save(model, directory, form="safetensors", extra=None):
    """Writes a model directory in one of FORMS; `extra` tensors go into .bin files too."""
    if form.startswith("safetensors"):
        model.save_pretrained(directory, max_shard_size="40KB" if "shards" in form else "5GB")
        names = list(directory.glob("model-*.safetensors"))
        assert (len(names) > 2) == ("shards" in form)
        return directory
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    state = {**model.state_dict(), **(extra or {})}
    if form == "bin":
        torch.save(state, directory / "pytorch_model.bin")
        return directory
    names = sorted(state)
    weight_map = {}
    for i in range(3):
        file = f"pytorch_model-{i + 1:05}-of-00003.bin"
        shard = {name: state[name] for name in names[i::3]}
        torch.save(shard, directory / file)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return directory


def draw_ids(vocab_size):
    """int64[B, L]."""
    return np.random.default_rng(0).integers(0, vocab_size, (2, 19))


def draw_pictures(size):
    """float32[N, S, S, 3], as if normalised."""
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)


@torch.no_grad()
def logits(model, ids):
    """float32[B, L, V]."""
    return model(input_ids=torch.from_numpy(ids)).logits.numpy()


@torch.no_grad()
def encoded(tower, pictures):
    """The hidden states of a vision tower before the first layer and after each one, and the
    class token after the last norm."""
    pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    output = tower(pixel_values=pixels, output_hidden_states=True)
    states = [state.numpy() for state in output.hidden_states]
    return states, output.pooler_output.numpy()


def assert_close(ours, theirs):
    """Equal within TOLERANCE, and nothing that is equal because it says nothing."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == theirs.dtype == np.float32
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
