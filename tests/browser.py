"""A headless Chromium for tests of pages, and what they ask of it."""

import contextlib
import io
import shutil

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextlib.contextmanager
def open_browser(width=1000, height=1100):
    """A selenium driver. Skips the test where there is no browser."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver_path = shutil.which("chromedriver")
    if not browser or not driver_path:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", "--force-color-profile=srgb", f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver_path)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(20)
    try:
        yield driver
    finally:
        driver.quit()


def console(driver):
    """What the page has written to the console since the last call: errors and warnings."""
    return [entry["message"] for entry in driver.get_log("browser")]


def wait(driver, condition, *arguments):
    """Waits until a JavaScript expression is true and the page has been painted since.

    The expression may be a promise. Returns its value.
    """
    script = f"""
    const done = arguments[arguments.length - 1];
    const painted = () => new Promise((resolve) => requestAnimationFrame(resolve));
    (async function poll(...given) {{
      for (let i = 0; i < 200; i++) {{
        const value = await (function (...arguments) {{ return {condition}; }})(...given);
        if (value) {{ await painted(); await painted(); return done(value); }}
        await new Promise((resolve) => setTimeout(resolve, 50));
      }}
      done(null);
    }})(...Array.from(arguments).slice(0, -1));"""
    value = driver.execute_async_script(script, *arguments)
    assert value, f"never true: {condition}"
    return value


def pixels(element):
    """A screenshot of an element: (h, w, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))


def colour_at(element, x, y=0.75):
    """The mean colour around the point (x, y), both 0 to 1, of an element."""
    image = pixels(element)
    row, column = int(y * image.shape[0]), int(x * image.shape[1])
    return image[row - 2 : row + 3, column - 2 : column + 3].mean((0, 1))
