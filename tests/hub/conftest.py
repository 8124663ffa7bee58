"""A hub for each file of tests."""

import pytest
from hub_server import serving


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub
