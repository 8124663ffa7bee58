"""The ablation's arithmetic and table; its training runs are the demonstration's."""

import pytest

from owl_jax.demo.ablation import ARMS, COLUMNS, change, format_table, summarize
from owl_jax.demo.model import DEMONSTRATION
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.training.config import small_config


def result(image, text):
    return {
        "image_accuracy": image,
        "multi_image_accuracy": 0.5,
        "video_accuracy": 0.25,
        "text_accuracy_after": text,
        "questions": 10,
    }


def test_mean_and_sample_deviation_over_the_seeds():
    found = {arm: [result(0.8, 0.6), result(0.9, 0.6), result(1.0, 0.6)] for arm in ARMS}
    summary = summarize(found)
    assert list(summary) == list(ARMS)
    for columns in summary.values():
        assert list(columns) == list(COLUMNS)
        assert columns["picture"] == {"mean": pytest.approx(0.9), "stdev": pytest.approx(0.1)}
        assert columns["text alone"] == {"mean": pytest.approx(0.6), "stdev": pytest.approx(0.0)}


@pytest.mark.parametrize("with_text", [True, False])
def test_an_arm_has_kinds_of_its_own(with_text):
    config = small_config(DEMONSTRATION)
    source = SyntheticSource({"vqa": 4.0, "text_facts": 0.5}, size=50, seed=3)
    config.data.mixture = ((source, 1.0),)
    change(config, with_text)
    kinds = source.kinds if with_text else {"vqa": 4.0}
    assert config.data.mixture == ((SyntheticSource(kinds, size=50, seed=3), 1.0),)


def test_one_seed_has_no_spread():
    assert summarize({"a": [result(0.8, 0.6)]})["a"]["picture"] == {"mean": 0.8, "stdev": 0.0}


def test_the_table_has_a_row_for_each_arm():
    arms = summarize({arm: [result(0.8, 0.6), result(0.9, 0.6)] for arm in ARMS})
    lines = format_table({"arms": arms, "seeds": 2}).splitlines()
    assert lines[0].split("  ")[0] == "held-out accuracy, %"
    assert [line[:22].strip() for line in lines[2:-1]] == list(ARMS)
    assert all("85.0 ± 7.1" in line and "60.0 ± 0.0" in line for line in lines[2:-1])
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[-1].startswith("2 seeds")
