"""Parts in users' files. That they train, load and chat: tests/training/test_docs_parts.py."""

import dataclasses
import re
import sys

import flax.linen as nn
import pytest

from owl_jax.data.batch import SequenceShape
from owl_jax.errors import UserError
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.families.mplug_owl import VARIANTS
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.own_parts import add_parts, load_parts, own_files
from owl_jax.models.parts import LanguagePart
from owl_jax.models.vision import vision_types
from owl_jax.models.vision.siglip import SiglipConfig
from owl_jax.models.vlm import abstract_params
from owl_jax.training.config import base_config, read_model
from owl_jax.training.flops import prefill_flops

FILE = """
from dataclasses import dataclass
from typing import Literal

from owl_jax.models.bounds import Size
from owl_jax.models.connectors.mlp import MlpConfig

@dataclass(frozen=True)
class TwiceConfig(MlpConfig):
    more: Size = 2
    architecture: Literal["twice"] = "twice"
"""


@pytest.fixture
def file(tmp_path):
    """A file with a connector of its own; nothing of it is left after the test."""
    before = {kind: dict(parts) for kind, parts in PARTS.items()}
    modules = set(sys.modules)
    (tmp_path / "twice.py").write_text(FILE)
    yield tmp_path / "twice.py"
    for kind, parts in before.items():
        PARTS[kind].clear()
        PARTS[kind].update(parts)
    for name in set(sys.modules) - modules:
        if name.startswith("owl_jax_file_"):
            del sys.modules[name]


def owl_with(connector):
    return dataclasses.replace(VARIANTS["llama"], connector=connector)


def test_a_config_names_the_files_of_its_parts(file):
    model = owl_with(load_parts(file).TwiceConfig(more=3))
    assert own_files(model) == (str(file),)
    assert own_files(VARIANTS["llama"]) == ()
    config = base_config(model)
    assert config.parts == (str(file),)
    del PARTS["connector"]["twice"]
    assert read_model(config) == model
    assert OwlConfig.from_dict(model.to_dict()) == model


def test_values_of_an_own_part_are_checked(file):
    values = owl_with(load_parts(file).TwiceConfig()).to_dict()
    values["connector"]["more"] = 0
    with pytest.raises(TypeError, match=r"connector\.more is 0"):
        OwlConfig.from_dict(values)


def test_a_file_is_run_once_and_again_when_it_has_changed(file):
    first = load_parts(file)
    assert load_parts(str(file)) is first
    file.write_text(FILE.replace("= 2", "= 5"))
    second = load_parts(file)
    assert second is not first
    assert PARTS["connector"]["twice"] is second.TwiceConfig
    assert second.TwiceConfig().more == 5
    file.write_text("x = (")
    with pytest.raises(UserError):
        load_parts(file)
    assert PARTS["connector"]["twice"] is second.TwiceConfig


def test_an_architecture_without_its_file(file):
    values = owl_with(load_parts(file).TwiceConfig()).to_dict()
    del PARTS["connector"]["twice"]
    message = r"connector.architecture is 'twice'; expected abstractor.*, or a part of your own"
    with pytest.raises(TypeError, match=message):
        OwlConfig.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no part; expected a class derived from VisionPart, ConnectorPart or Lang"),
        (FILE.replace('"twice"', '"mlp"'), r"architecture 'mlp', the name of another connector"),
        (FILE.replace("(frozen=True)", ""), "TypeError: cannot inherit non-frozen dataclass"),
        (FILE.replace("@dataclass(frozen=True)\n", ""), "not a frozen dataclass; write @data"),
        (
            FILE.replace("connectors.mlp import MlpConfig", "parts import ConnectorPart").replace(
                "(MlpConfig)", "(ConnectorPart)"
            ),
            "TwiceConfig has no attention_flops, build, mismatches",
        ),
        (
            f"{FILE}\n@dataclass(frozen=True)\nclass OtherConfig(TwiceConfig):\n"
            '    architecture: Literal["twice"] = "twice"\n',
            "TwiceConfig and OtherConfig have the same architecture 'twice'; give one of them",
        ),
        ("\nx = 1 / 0", r"^file of parts \S+twice\.py, line 2: ZeroDivisionError"),
        ("x = (", r"twice\.py, line 1: '\(' was never closed"),
    ],
)
def test_what_a_file_may_not_be(text, message, file):
    file.write_text(text)
    before = dict(PARTS["connector"])
    with pytest.raises(UserError, match=message) as error:
        add_parts([file])
    assert "\n" not in str(error.value)
    assert PARTS["connector"] == before


def test_two_names_of_one_class(file):
    file.write_text(f"{FILE}\nSame = TwiceConfig\n")
    assert PARTS["connector"].get("twice") is None
    assert load_parts(file).Same is PARTS["connector"]["twice"]


def test_what_a_language_model_need_not_say():
    optional = LanguagePart.BASE_PREFIX, LanguagePart.DEFINING, LanguagePart.PROJECTIONS
    assert optional == ("", (), ())


ENCODER = """
from dataclasses import dataclass
from typing import ClassVar, Literal

from owl_jax.models.parts import VisionPart
from owl_jax.models.vision.siglip import SiglipConfig

@dataclass(frozen=True)
class MineConfig(SiglipConfig):
    MODEL_TYPES: ClassVar = ("mine",)
    architecture: Literal["mine"] = "mine"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ENCODER.replace('("mine",)', '("mine", "clip")'),
            "MineConfig has the model type 'clip', which ClipConfig already has; give another",
        ),
        (
            f"{ENCODER}    weight_rows = VisionPart.weight_rows\n",
            "MineConfig has MODEL_TYPES but no weight_rows",
        ),
    ],
)
def test_an_encoder_s_directories(text, message, file):
    file.write_text(ENCODER)
    part = load_parts(file).MineConfig
    assert vision_types()["mine"] is part
    del PARTS["vision"]["mine"]
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_parts(file)
    assert "mine" not in vision_types()


def test_from_hf_may_be_a_static_method(file):
    file.write_text(
        f"{ENCODER}\n    @staticmethod\n    def from_hf(source):\n        return MineConfig()\n"
    )
    assert vision_types().keys() & {"mine"} == set()
    assert load_parts(file).MineConfig is vision_types()["mine"]


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no\.py: No such file or directory; expected a Python"):
        load_parts(tmp_path / "no.py")
    (tmp_path / "list.txt").write_text(FILE)
    with pytest.raises(UserError, match=r"list\.txt: expected a Python file, with a name that"):
        load_parts(tmp_path / "list.txt")


def test_a_class_of_a_notebook_has_no_file():
    class Cell(MlpConfig):
        __module__ = "__main__"

    main = sys.modules["__main__"]
    former = vars(main).pop("__file__", None)
    try:
        with pytest.raises(UserError, match="Cell is not defined in a file; write it into a"):
            own_files(owl_with(Cell()))
    finally:
        if former is not None:
            main.__file__ = former


@pytest.mark.parametrize("parts", ["twice.py", (3,)])
def test_config_parts_is_a_list_of_paths(parts):
    config = base_config(VARIANTS["llama"])
    with config.ignore_type():
        config.parts = parts
    with pytest.raises(UserError, match=r"config\.parts=.*: expected paths of Python files"):
        read_model(config)


METHODS = {
    "problems": "self, where",
    "mismatches": "self, vision, width",
    "num_tokens": "self, vision, frames",
    "num_parameters": "self",
    "build": "self, vision, width, compute",
    "attention_flops": "self, vision, frames",
    "tokens_through": "self, path, vision, frames",
}


@pytest.mark.parametrize("fault", ["1 / 0", "import sys; sys.exit(3)", "self.none", "[][0]"])
@pytest.mark.parametrize("method", METHODS)
def test_a_part_that_fails_is_one_line_with_its_file(method, fault, file):
    lines = f"\n    def {method}({METHODS[method]}):\n        {fault}\n"
    file.write_text(FILE + lines)
    number = (FILE + lines).count("\n")
    vision = SiglipConfig(28, 14, 16, 24, num_layers=1, num_heads=2)
    llm = LlamaConfig(340, 16, 24, 1, 2, 2)
    with pytest.raises(UserError, match=rf"twice\.py, line {number}: \w+: ") as error:
        model = OwlConfig(vision, load_parts(file).TwiceConfig(hidden_size=16), llm)
        model.problems()
        shapes = abstract_params(model)
        prefill_flops(model, nn.meta.unbox(shapes), SequenceShape(9, model.media_lengths(), 28, 1))
    assert "\n" not in str(error.value)


def test_a_file_of_parts_that_ends_the_process_is_one_line(file):
    file.write_text(f"{FILE}\nraise SystemExit('enough')\n")
    with pytest.raises(UserError, match=r"file of parts \S+twice\.py, line 13: SystemExit: enough"):
        load_parts(file)


@pytest.mark.parametrize("number", ["0", "-3", "4.0", "None", "True"])
def test_a_connector_without_tokens_is_one_line(number, file):
    file.write_text(f"{FILE}\n    def num_tokens(self, vision, frames):\n        return {number}\n")
    model = owl_with(load_parts(file).TwiceConfig())
    message = rf"connector twice: num_tokens of 1 frame\(s\) is {number}; expected a whole number"
    (problem,) = model.problems()
    assert re.match(message, problem)
    with pytest.raises(UserError, match=message):
        model.media_lengths()
    with pytest.raises(UserError, match=rf"config\.model: {message}"):
        read_model(base_config(model))


def test_numpy_s_integers_count_tokens(file):
    counts = "import numpy as np\n        return np.prod([2, 2])"
    file.write_text(f"{FILE}\n    def num_tokens(self, vision, frames):\n        {counts}\n")
    assert type(owl_with(load_parts(file).TwiceConfig()).num_tokens("image")) is int


@pytest.mark.parametrize(
    ("method", "returned", "message"),
    [
        ("problems", "'bad'", "problems of TwiceConfig returned 'bad'; expected a list of lines"),
        ("mismatches", "'bad'", "mismatches of TwiceConfig returned 'bad'; expected a list of"),
        ("mismatches", "None", "mismatches of TwiceConfig returned None; expected a list of"),
        ("build", "None", "build of TwiceConfig returned None; expected a Flax module"),
        ("build", "lambda x: x", "build of TwiceConfig returned <function"),
        ("build", "Returns(0)", "connector twice: its module returns NoneType; expected one array"),
        ("build", "Returns(1)", "connector twice: its module returns tuple; expected one array of"),
        ("build", "Returns(2)", "connector twice: its module returns an array of int32; expected"),
    ],
)
def test_what_a_connector_s_methods_return(method, returned, message, file):
    module = """
import flax.linen as nn

class Returns(nn.Module):
    which: int

    def __call__(self, x):
        return (None, (x, x), x.astype("int32"))[self.which]
"""
    lines = f"    def {method}({METHODS[method]}):\n        return {returned}\n"
    file.write_text(f"{FILE}\n{lines}{module}")
    vision = SiglipConfig(28, 14, 16, 24, num_layers=1, num_heads=2)
    llm = LlamaConfig(340, 16, 24, 1, 2, 2)
    with pytest.raises(UserError) as error:
        model = OwlConfig(vision, load_parts(file).TwiceConfig(hidden_size=16), llm)
        model.problems()
        abstract_params(model)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_connector_that_miscounts_its_tokens_is_one_line(file):
    """Otherwise vectors would go to other tokens, or to none."""
    says = "\n    def num_tokens(self, vision, frames):\n        return 7\n"
    file.write_text(FILE + says)
    vision = SiglipConfig(28, 14, 16, 24, num_layers=1, num_heads=2)
    llm = LlamaConfig(340, 16, 24, 1, 2, 2)
    model = OwlConfig(vision, load_parts(file).TwiceConfig(hidden_size=16), llm)
    message = r"connector twice: num_tokens of 1 frame\(s\) is 7, but its module returns 4 tokens"
    with pytest.raises(UserError, match=message):
        abstract_params(model)
