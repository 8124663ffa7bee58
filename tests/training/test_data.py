"""A config's data, opened: sources of several kinds, epochs as steps, where things are kept."""

import dataclasses
import json
import math
import shutil

import chat_templates
import numpy as np
import pytest
import tiny
from PIL import Image

from owl_jax.data.conversations import Conversation
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import UserError
from owl_jax.training import config as settings
from owl_jax.training.config import small_config
from owl_jax.training.data import open_data, steps_of_epochs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, talks in the original's form, and pairs of which one lacks its picture."""
    directory = tmp_path_factory.mktemp("data")
    tiny.write_model(directory / "base")
    talks = [{"text": f"Human: Say it.\nAI: {'word ' * (n % 7)}{n}"} for n in range(60)]
    (directory / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    rows = ["image,caption", *(f"{n}.png,picture number {n}" for n in range(40)), "no.png,none"]
    (directory / "pairs.csv").write_text("\n".join(rows))
    for n in range(40):
        Image.new("RGB", (9, 9), (n, n, n)).save(directory / f"{n}.png")
    return directory


@pytest.fixture
def config(files):
    config = small_config(tiny.CONFIG)
    config.batch_size = 4
    config.tokenizer = str(files / "base")
    config.data.sequence_length = 192
    config.data.pack = True
    config.data.open_rows = 4
    config.data.max_dropped = 0.2
    config.data.image_slots = 4
    config.data.mixture = ((f"{files}/talks.jsonl", 3.0), (f"{files}/pairs.csv", 1.0))
    return config


def test_sources_of_several_kinds_in_one_stream(config, tmp_path):
    data = open_data(config, tiny.CONFIG, tmp_path)
    try:
        assert [len(item.source) for item in data.sources] == [60, 41]
        rows = [next(data.batches) for _ in range(30)]
        used = np.concatenate([(batch.media_index >= 0).any(axis=1) for batch in rows])
        assert 0.2 < used.mean() < 1  # rows with pictures and rows without
        assert max(batch.segment_ids.max() for batch in rows) > 2
    finally:
        data.close()
    assert (tmp_path / "index").is_dir()
    (line,) = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "missing file"
    assert json.loads(line)["where"].endswith("pairs.csv:42")


def test_conversations_can_be_looked_at_by_number(config):
    data = open_data(config, tiny.CONFIG)
    first = [data.conversations[number] for number in range(20)]
    data.close()
    assert all(isinstance(item, Conversation) for item in first)
    assert [item.number for item in first] == list(range(20))


@pytest.mark.parametrize("pack", [True, False])
def test_epochs_are_as_many_steps_as_it_takes(config, files, pack):
    config.data.pack = pack
    config.data.mixture = ((f"{files}/talks.jsonl", "1 epoch"),)
    config.epochs = 3.0
    data = open_data(config, tiny.CONFIG)
    steps = steps_of_epochs(config, data)
    taught: set[str] = set()
    needed = 0
    while len(taught) < 60:  # the first epoch, as the stream gives it
        batch = next(data.batches)
        needed += 1
        for row, mask, segments in zip(
            batch.targets, batch.loss_mask, batch.segment_ids, strict=True
        ):
            for segment in range(1, segments.max() + 1):
                taught.add(data.tokenizer.decode(row[(segments == segment) & (mask == 1)]))
    data.close()
    if pack:
        assert 3 <= steps <= 45 / 3
        # Each of the four rows that are open at an epoch's end may come after the next one's first.
        assert abs(steps / 3 - needed) <= 2
    else:
        assert steps == math.ceil(3 * 60 / 4) and needed == 15


def test_epochs_are_as_many_steps_on_every_process(config):
    config.epochs = 2.0
    steps = []
    for part in range(2):
        data = open_data(config, tiny.CONFIG, None, part, 2)
        steps.append(steps_of_epochs(config, data))
        data.close()
    assert steps[0] == steps[1] > 1


def test_a_batch_is_divided_among_shards(config):
    with pytest.raises(
        UserError, match=r"config\.batch_size=4 must be a multiple of 3 data shards"
    ):
        open_data(config, tiny.CONFIG, None, 0, 3)


def test_a_source_may_have_its_pictures_elsewhere(config, files, tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption\n7.png,seven\n")
    config.data.mixture = ((f"{tmp_path}/pairs.csv", 1.0, str(files)),)
    config.batch_size = 1
    data = open_data(config, tiny.CONFIG)
    assert (next(data.batches).images[0, 0] == 7).all()
    data.close()


def test_a_source_of_one_s_own_beside_a_file(config, files):
    """By weight, under its name; the config that holds it can be written down and copied."""
    source = SyntheticSource({"text_math": 1.0}, size=50)
    config.data.mixture = ((f"{files}/talks.jsonl", 3.0), (source, 1.0))
    settings.check_values(config)
    settings.check_directories(config)
    data = open_data(config, tiny.CONFIG)
    assert data.names == [f"{files}/talks.jsonl", "synthetic"]
    numbers = range(400)
    wheres = [data.conversations[number].where for number in numbers]
    assert sum(where.startswith("synthetic:") for where in wheres) == 100
    data.close()
    written = json.loads(config.to_json_best_effort())
    assert written["data"]["mixture"][1] == [dataclasses.asdict(source), 1.0]
    assert config.copy_and_resolve_references().data.mixture[1][0] == source


def test_a_changed_source_of_one_s_own_is_no_place_to_resume(config):
    """Also where none of the records that are looked at has changed."""
    config.data.pack = False
    kinds = {"text_math": 4.0, "text_facts": 1.0}
    config.data.mixture = ((SyntheticSource(kinds), 1.0),)
    data = open_data(config, tiny.CONFIG)
    next(data.batches)
    state = data.batches.get_state()
    data.close()
    same, changed = (
        open_data(
            _with_source(config, SyntheticSource({**kinds, "text_math": weight})), tiny.CONFIG
        )
        for weight in (4.0, 4.0001)
    )
    same.batches.set_state(state)
    with pytest.raises(UserError, match=r"was made with source 1 = .* set it back"):
        changed.batches.set_state(state)
    same.close()
    changed.close()


def test_another_conversation_format_is_no_place_to_resume(config):
    vicuna, owl2 = (
        dataclasses.replace(tiny.CONFIG, conversation=name) for name in ("vicuna_v1", "owl2")
    )
    first, same, owls = (open_data(config, model) for model in (vicuna, vicuna, tiny.CONFIG))
    assert (first.format.name, owls.format.name) == ("vicuna_v1", "owl")
    other = open_data(config, owl2)
    next(first.batches)
    state = first.batches.get_state()
    same.batches.set_state(state)
    # Releases that knew only the Owl format wrote no such key.
    assert not any("conversation" in key for key in owls.batches.get_state()["made with"])
    for data in (other, owls):
        with pytest.raises(
            UserError, match=r"config\.model\.conversation = vicuna_v1 .* now it is"
        ):
            data.batches.set_state(state)
    for data in (first, same, other, owls):
        data.close()


def test_a_template_whose_answers_cannot_be_told_is_refused(config, files, tmp_path):
    shutil.copytree(files / "base", tmp_path / "base")
    config.tokenizer = str(tmp_path / "base")
    model = dataclasses.replace(tiny.CONFIG, conversation="chat_template")
    with pytest.raises(UserError, match="base: no chat template"):
        open_data(config, model)
    path = tmp_path / "base" / "chat_template.jinja"
    path.write_text(chat_templates.THINKING)
    with pytest.raises(
        UserError, match=r"chat_template\.jinja: .*: answer 1 is written differently"
    ):
        open_data(config, model)
    path.write_text(chat_templates.GENERATION)
    data = open_data(config, model)
    assert data.format.name == "chat_template"
    data.close()
    model = dataclasses.replace(tiny.CONFIG, conversation="llama3")
    with pytest.raises(UserError, match="base: the conversation format llama3 needs the token"):
        open_data(config, model)


def _with_source(config, source):
    config.data.mixture = ((source, 1.0),)
    return config


@pytest.mark.parametrize(("key", "value"), [("synthetic", {"vqa": 1.0}), ("synthetic_size", 10)])
def test_former_keys_name_what_takes_their_place(config, key, value):
    config.data[key] = value
    with pytest.raises(UserError, match=rf"{key}.* no longer exists: .*SyntheticSource"):
        settings.check_values(config)


@pytest.mark.parametrize("entry", ["a.jsonl", ("a.jsonl",), ("a.jsonl", 1.0, "b", "c"), (1.0, "a")])
def test_an_entry_of_another_form_is_shown(config, entry):
    config.data.mixture = (entry,)
    with pytest.raises(
        UserError, match=r"config\.data\.mixture\[0\] is .* expected \(source, weight"
    ):
        open_data(config, tiny.CONFIG)


def test_a_tokenizer_with_more_tokens_than_the_model(config, files, tmp_path):
    shutil.copytree(files / "base", tmp_path / "base")
    (tmp_path / "base" / "added_tokens.json").write_text('{"[PAD]": 340}')
    config.tokenizer = str(tmp_path / "base")
    with pytest.raises(UserError, match="base: the tokenizer has 341 pieces, the model 340"):
        open_data(config, tiny.CONFIG)
