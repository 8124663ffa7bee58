"""The models of test_pairs_of_parts.py: training and decoding compile for a TPU."""

import pytest
from small_parts import MODELS, fitting

from owl_jax.aot.analyse import analyse
from owl_jax.aot.build_program import build_program
from owl_jax.training.config import base_config


def config_of(model):
    config = base_config(model)
    config.batch_size, config.data.sequence_length = 8, 256
    config.rules = ((".*", "all"),)
    config.recipes.all = {"learning_rate": 1e-3}
    return config


@pytest.mark.parametrize("names", MODELS, ids="+".join)
@pytest.mark.parametrize("program", ["train", "decode"])
def test_it_compiles(program, names, open_topology):
    topology = open_topology("v5e:2x2")
    opened = build_program(config_of(fitting(names)), topology, program, new_tokens=64)
    report = analyse(opened, topology, quick=True)
    assert report.fits
    assert report.hardware_flops > 0 and report.unknown_loops == []
