# Needs nothing but make and Python 3.11 or later, and the tests Chromium (CONTRIBUTING.md): each
# target first makes .venv and installs what it uses, once, and again when setup.py changes. Another
# interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
RUN := .venv/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo ablation test processes parity aot lint wheel package bench soak

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: .venv/installed-test  ## make .venv and install owl_jax into it

demo: .venv/installed-test  ## train a small model in three stages and ask it: runs/demo
	$(RUN) -m owl_jax.demo --workdir=runs/demo

ablation: .venv/installed-test  ## after demo: what the stages and their data are worth (long)
	$(RUN) -m owl_jax.ablation --demo=runs/demo --workdir=runs/ablation

# Two workers: each compiles its own programs and needs a core. A file goes to one of them, as what
# its tests share is made once then, and in the order of tests/conftest.py.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/installed-test  ## all tests but those of make processes
	$(PYTEST) -m "not processes"

# Only the files that have such tests: to import all of them takes both workers ten seconds.
processes: .venv/installed-test  ## runs of several processes, faults, long pages of docs/
	$(PYTEST) -m processes $(sort $(shell grep -rl 'pytest\.mark\.processes' --include='test_*.py' tests))

parity: .venv/installed-parity  ## the same numbers as transformers and PEFT (installs PyTorch)
	$(RUN) -m pytest -n 2 --dist worksteal tests/parity

# Last of all: where libtpu is installed and no TPU is, JAX looks for one in every process.
aot: .venv/installed-aot  ## TPU programs compiled without a TPU (installs libtpu)
	$(RUN) -m pytest -n 2 --dist worksteal tests/compiled

lint: .venv/installed-dev  ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

wheel: .venv/installed-dev  ## dist/: a source distribution, and a wheel built from it
	@rm -rf dist
	@$(RUN) -m build

package: wheel  ## install the wheel in an empty environment and use it there
	@PYTHON=$(PYTHON) bash .ci/package

# Names that begin with an underscore are imported by the others.
bench: .venv/installed-test  ## side-by-side timings of benchmarks/
	@set -e; for script in $(filter-out benchmarks/soak.py,$(wildcard benchmarks/[!_]*.py)); do \
		echo "== $$script"; $(RUN) "$$script"; \
	done

soak: .venv/installed-test  ## after demo: ten minutes of good and bad requests to a server
	$(RUN) benchmarks/soak.py

.venv/installed-%: setup.py | .venv/bin/pip
	@echo "Installing owl_jax[$*] into .venv (a few minutes at first) ..."
	@$(PIP) install --editable ".[$*]"
	@touch $@

# Not bin/python: that is there before an interrupted installation of pip.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: %s is Python %d.%d; owl_jax needs 3.11 or later: make PYTHON=/path/to/python3.11" % ((sys.executable,) + tuple(sys.version_info[:2])))'
	@$(PYTHON) -m venv .venv
