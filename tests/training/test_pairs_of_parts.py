"""Parts of every kind together: a training step on eight devices, saved, loaded, asked.

Models are drawn from the dicts of parts, so a new part is in some of them without being named here.
"""

import jax
import pytest
from small_parts import MODELS, OTHERS, ask, fitting, make_data, partners_in, train_a_step

from owl_jax.checkpoint.model_directory import read_config
from owl_jax.models.config import PARTS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def test_each_part_is_there_with_at_least_three_others():
    partners = partners_in(MODELS)
    assert partners.keys() == {name for parts in PARTS.values() for name in parts}
    assert min(map(len, partners.values())) >= OTHERS == 3


@pytest.mark.parametrize("names", MODELS, ids="+".join)
def test_a_step_on_eight_devices_saved_loaded_asked(names, data, tmp_path):
    assert len(jax.devices()) == 8
    model = fitting(names)
    saved = train_a_step(model, data, tmp_path)
    assert read_config(saved) == model
    assert ask(saved)
