"""A browser for the tests of pages."""

import pytest
from browser import open_browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as driver:
        yield driver
