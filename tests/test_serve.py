"""The command owl_jax.serve."""

import base64
import dataclasses
import io
import json
import re
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import flax.linen as nn
import forked
import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from owl_jax.checkpoint.model_directory import save_model
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vlm import abstract_params

QUESTION = {"messages": [{"role": "user", "content": "What do you see?"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("serve") / "owlet")


def start(*arguments):
    """The command, and the address that it prints first."""
    process = forked.Forked(["-m", "owl_jax.serve", "--port=0", *map(str, arguments)])
    line = process.stdout.readline()
    found = re.match(r"listening on (http://127.0.0.1:\d+); the model is loading", line)
    if not found:
        process.kill()
        raise AssertionError((line, process.communicate(timeout=60)))
    return process, found[1]


def picture():
    """A data URI."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def about(part):
    """A question about a medium."""
    return [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]


def get(url, body=None):
    """(status, JSON) of a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_from_start_to_end(model, tmp_path):
    process, url = start(f"--model={model}", "--num_rows=1", "--row_length=128")
    try:
        status, body = get(f"{url}/health")
        assert (status, body["error"]["code"]) == (503, "loading")
        assert re.fullmatch(r"owlet is ready after \d+ s\n", process.stdout.readline())
        assert get(f"{url}/health") == (200, {"status": "ok"})
        status, body = get(f"{url}/v1/chat/completions", {"model": "owlet", **QUESTION})
        assert status == 200 and body["usage"]["completion_tokens"] <= 4
        assert get(f"{url}/v1/models")[1]["data"][0]["max_model_len"] == 128
        for fields in (
            {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 1, "n": 2},
            {"presence_penalty": 1, "repetition_penalty": 1.2, "logprobs": True, "top_logprobs": 3},
            {"messages": about({"type": "image_url", "image_url": picture()}), "temperature": 0},
            {"messages": about({"type": "video", "video": [picture(), picture()]})},
            {"response_format": {"type": "json_object"}},
        ):
            status, body = get(f"{url}/v1/chat/completions", {**QUESTION, **fields})
            assert status == 200, body
        other = urllib.request.Request(f"{url}/health", headers={"Host": "owls.example"})
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(other)
        with urllib.request.urlopen(f"{url}/metrics") as response:
            assert 'owl:compilations_total{model_name="owlet"} 0.0' in response.read().decode()
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    lines = [json.loads(line) for line in stderr.splitlines()]
    # A line is written once the answer is sent, so a quick one may overtake it.
    assert sorted(line["status"] for line in lines) == [200] * 9 + [421, 503]
    assert stdout == ""


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [(signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "error: interrupted\n")],
)
def test_a_signal_while_it_loads(model, number, status, message):
    process, _ = start(f"--model={model}")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (status, message)


def test_ctrl_c(model):
    process, _ = start(f"--model={model}", "--num_rows=1", "--row_length=128")
    assert "ready" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "error: interrupted\n")


def test_adapters_answer_by_name(model, tmp_path):
    config = dataclasses.replace(tiny.CONFIG, lora=LoraConfig(2, 16.0, 0.0, ("q_proj", "v_proj")))
    params = nn.meta.unbox(abstract_params(config))
    random = np.random.default_rng(1)
    filled = jax.tree.map(lambda x: random.normal(0, 1, x.shape).astype(np.float32), params)
    save_model(tmp_path / "birds", config, filled, "peft")
    arguments = (f"--model={model}", f"--adapter=birds={tmp_path / 'birds'}", "--any_base")
    process, url = start(*arguments, "--num_rows=2", "--row_length=128")
    try:
        assert "ready" in process.stdout.readline()
        models = [entry["id"] for entry in get(f"{url}/v1/models")[1]["data"]]
        assert models == ["owlet", "birds"]
        texts = []
        for name in models:
            body = {**QUESTION, "model": name, "temperature": 0, "max_tokens": 12}
            status, body = get(f"{url}/v1/chat/completions", body)
            assert status == 200 and body["model"] == name
            texts.append(body["choices"][0]["message"]["content"])
        assert texts[0] != texts[1]
    finally:
        process.kill()


def test_a_model_that_cannot_be_loaded(tmp_path):
    result = forked.run("-m", "owl_jax.serve", "--port=0", f"--model={tmp_path / 'none'}")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "none" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port=99999"], "--port is 99999"),
        (["--host=256.0.0.1"], "cannot be listened on"),
        (["--max_body_mb=0"], "--max_body_mb is 0"),
        (["--max_megapixels=nan"], "--max_megapixels is nan"),
        (["--num_frames=0"], "--num_frames is 0"),
        (["--adapter=birds"], "expected --adapter=NAME=DIR"),
        (["--adapter=a=x", "--adapter=a=y"], "given twice"),
        (["--adapter=owlet=x"], "the model has this name"),
        (["--api_key_file=/nowhere"], "cannot be read"),
        (["--temperature=-1"], "temperature is -1"),
    ],
)
def test_wrong_flags_of_serve(model, arguments, words):
    result = forked.run("-m", "owl_jax.serve", f"--model={model}", "--port=0", *arguments)
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and words in line


ONE_OF_TWO = """
import sys
import jax
from owl_jax import cli, serve
jax.distributed.initialize(sys.argv.pop(1), num_processes=2, process_id=int(sys.argv.pop(1)))
cli.run(serve.main, serve.GROUPS)
"""


def test_a_slice_of_several_hosts_is_refused(model):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [
        forked.Forked(["-c", ONE_OF_TWO, address, str(number), f"--model={model}", "--port=0"])
        for number in range(2)
    ]
    try:
        ends = [process.communicate(timeout=120) for process in pair]
    finally:
        for process in pair:
            process.kill()
    # The first that leaves ends the other, which may not have come to the same line.
    line = "error: this is one of 2 processes of a slice of several hosts"
    assert any(
        line in stderr and process.returncode == 1
        for process, (_, stderr) in zip(pair, ends, strict=True)
    )
    assert all(process.returncode != 0 for process in pair)


def test_a_port_that_is_taken(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = forked.run("-m", "owl_jax.serve", f"--model={model}", f"--port={port}")
    assert result.returncode == 1 and "give another --port" in result.stderr


def test_an_open_address_without_keys_is_warned_of(tmp_path):
    arguments = ("--port=0", "--host=0.0.0.0", f"--model={tmp_path / 'none'}")
    result = forked.run("-m", "owl_jax.serve", *arguments)
    assert "warning: --host=0.0.0.0 without --api_key_file" in result.stderr


LIST_FLAGS = """
def main():
    import json
    from absl import flags
    from owl_jax import serve
    modules = ("owl_jax.serve", "owl_jax.serving.model_flags")
    finders = flags.FLAGS.get_flags_for_module, flags.FLAGS.get_key_flags_for_module
    own = {flag.name for find in finders for module in modules for flag in find(module)}
    groups = {name: [holder.name for holder in group] for name, group in serve.GROUPS.items()}
    print(json.dumps([groups, sorted(own)]))
main()
"""


@pytest.fixture(scope="module")
def listed():
    """(the flags by group, all flags), from a process without the flags of other commands."""
    result = forked.run("-c", LIST_FLAGS)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_help_has_every_flag_in_one_group(listed):
    groups, own = listed
    named = [name for group in groups.values() for name in group]
    assert len(own) > 30 and sorted(named) == own
    result = forked.run("-m", "owl_jax.serve", "--help")
    assert result.returncode == 0
    assert "Serves a model over HTTP" in result.stdout
    for group, names in groups.items():
        assert f"\n{group}:\n" in result.stdout
        for name in names:
            assert f"\n  --{name}: " in result.stdout


def test_every_flag_of_serve_is_in_its_page(listed):
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    for group in listed[0].values():
        for name in group:
            assert f"`--{name}" in page
