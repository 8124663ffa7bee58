"""What load refuses before it reads anything, what it verifies, what it warns of."""

import golden
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import owl_jax
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.errors import UserError

LLAMA, ADAPTER = golden.GOLDENS / golden.LLAMA, golden.GOLDENS / golden.LORA


@pytest.mark.parametrize(
    "dtype",
    ["float16", "int32", "int4", "words", "", "x" * 10**6, "a\nb", 7, None, jnp.int4, jnp.float16,
     float, int, object(), [], {}, np.zeros(3), ("float32", 2), float("nan"), True],
)  # fmt: skip
def test_dtypes_that_weights_cannot_be_are_refused(dtype):
    with pytest.raises(UserError, match="expected one of bfloat16, float32, int8") as told:
        owl_jax.load(LLAMA, dtype)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 200


def test_a_cache_in_int8():
    compute, _ = owl_jax.load(LLAMA, "float32", cache_dtype="int8").compiled_form
    assert compute.cache_dtype == "int8"
    assert owl_jax.load(LLAMA, "float32").compiled_form[0].cache_dtype == "auto"


@pytest.mark.parametrize("dtype", ["float32", np.float32, jnp.float32, np.dtype("float32"), "f4"])
def test_a_dtype_may_be_said_in_many_ways(dtype):
    assert owl_jax.load(LLAMA, dtype).params["llm"]["norm"]["scale"].dtype == np.float32


@pytest.mark.parametrize("spoilt", ["config.json", "model.safetensors"])
def test_verify_names_the_file_that_has_rotted(spoilt, tmp_path):
    config, params = golden.model(golden.LLAMA)
    save_model(tmp_path / "model", config, params, "huggingface")
    owl_jax.load(tmp_path / "model", "float32", verify=True)
    content = bytearray((tmp_path / "model" / spoilt).read_bytes())
    content[-4] ^= 1
    (tmp_path / "model" / spoilt).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"does not match its SHA256SUMS \(1\): {spoilt} \(differs\)"
    ):
        owl_jax.load(tmp_path / "model", "float32", verify=True)


def test_verify_needs_a_list_of_the_model_and_of_the_adapter(tmp_path):
    with pytest.raises(UserError, match=f"{LLAMA}: no SHA256SUMS"):
        owl_jax.load(LLAMA, verify=True)
    config, params = golden.model(golden.LLAMA)
    save_model(tmp_path / "model", config, params, "orbax")
    with pytest.raises(UserError, match=f"{ADAPTER}: no SHA256SUMS"):
        owl_jax.load(tmp_path / "model", adapter=ADAPTER, verify=True)
    with pytest.raises(UserError, match=f"{ADAPTER}: no SHA256SUMS"):
        owl_jax.load(tmp_path / "model", adapters={"a": ADAPTER}, verify=True)
    for missing in (tmp_path / "nowhere", "x" * 300):
        with pytest.raises(UserError, match=r"no SHA256SUMS|cannot be read"):
            owl_jax.load(missing, verify=True)


@pytest.mark.parametrize("format", ["huggingface", "orbax"])
@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16])
def test_weights_that_are_no_numbers_are_warned_of(format, dtype, tmp_path, capsys):
    config, params = golden.model(golden.LLAMA)
    scale = params["llm"]["norm"]["scale"].astype(dtype)
    scale[[1, 3]] = np.nan
    save_model(
        tmp_path / "model",
        config,
        {**params, "llm": {**params["llm"], "norm": {"scale": scale}}},
        format,
    )
    owl_jax.load(tmp_path / "model", "float32")
    assert "2 elements of 1 tensors are NaN, the first in " in capsys.readouterr().err


@pytest.mark.parametrize("path", [None, b"model", 3, ["model"]])
def test_what_is_no_path_is_one_line(path):
    with pytest.raises(UserError, match="is not a path; expected the path of a model directory"):
        owl_jax.load(path)
    if path is not None:
        with pytest.raises(UserError, match="is not a path"):
            owl_jax.load(LLAMA, adapter=path)
    with pytest.raises(UserError, match="is not a path"):
        owl_jax.load(LLAMA, adapters={"a": path})
