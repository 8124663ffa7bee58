"""The notebooks of examples/ as they are in git: small, without results, with links that work."""

import re

import nbformat
import pytest
from notebook_cells import EXAMPLES, markdown, read

NOTEBOOKS = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


def test_which_there_are():
    assert NOTEBOOKS == ["own_pictures", "tpu_vm"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_no_results(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 30_000
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_links_lead_somewhere(name):
    targets = re.findall(r"\]\((?!http)([^)#]*)", markdown(read(name)))
    assert targets
    for target in targets:
        assert (EXAMPLES / target).exists(), target
