"""A headless Chromium, driven by Playwright."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

COMMANDS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


@contextmanager
def chromium():
    """A browser with a camera that shows a test picture."""
    path = next(filter(None, map(shutil.which, COMMANDS)), None)
    if path is None:
        pytest.fail(
            f"the tests of the page need Chromium, one of {', '.join(COMMANDS)}; on Debian: "
            "apt-get install chromium-headless-shell",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
