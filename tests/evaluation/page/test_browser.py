"""The page in a real browser: pixels on the screen, not the code that should draw them."""

import time
from fractions import Fraction

import numpy as np
import pytest
from browser import colour_at, console, pixels, wait

from skipsr_jax.evaluation.page.contents import Clip, Plot, Version
from skipsr_jax.evaluation.page.write import write_page
from skipsr_jax.media.image_writer import write_image
from skipsr_jax.media.video_writer import VideoWriter

HEIGHT, WIDTH, FRAMES = 96, 128, 10
RED, BLUE = (200, 20, 20), (20, 20, 200)
SHOWN = "document.querySelectorAll('video').length == 2 && clock.frame == arguments[0] &&"
NO_SEEK = "[...document.querySelectorAll('video')].every((v) => v.readyState >= 2 && !v.seeking)"


def frame(colour, index, height=HEIGHT, width=WIDTH):
    """A picture of one colour, whose green says which frame it is."""
    picture = np.full((height, width, 3), colour, np.uint8)
    picture[..., 1] += 16 * index
    return picture


def write_video(path, colour, height=HEIGHT, width=WIDTH):
    with VideoWriter(path, height=height, width=width, rate=Fraction(10)) as writer:
        for index in range(FRAMES):
            writer.write(frame(colour, index, height, width))
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of a clip in three versions and a picture in two, as one file and as a folder."""
    folder = tmp_path_factory.mktemp("page")
    red = write_video(folder / "red.mp4", RED)
    blue = write_video(folder / "blue.mp4", BLUE)
    odd = write_video(folder / "odd.mp4", BLUE, HEIGHT + 1, WIDTH + 1)  # 4:4:4, so made anew
    write_image(folder / "small.png", frame(RED, 0, HEIGHT // 4, WIDTH // 4))
    write_image(folder / "large.png", frame(BLUE, 0))
    keep = np.ones((FRAMES, 6, 8), bool)
    keep[:, :, :4] = False
    keep[5:, :3, 4:] = False
    stages = {"encode": 1.0, "decode": 2.5}
    clips = [
        Clip(
            "moving </script>",
            [Version("red", red, "input"), Version("blue", blue, "result", stages),
             Version("odd", odd, "truth")],
            {"mask": keep},
        ),
        Clip("still", [Version("red", folder / "small.png", "input"),
                       Version("blue", folder / "large.png")]),
    ]  # fmt: skip
    scores = {
        "results": {
            name: {
                "mean": {"psnr": value, "lpips": 0.1},
                "clips": {clip.name: {"psnr": value, "lpips": 0.1, "frames": 1} for clip in clips},
            }
            for name, value in (("blue", 31.5), ("odd", float("inf")))
        },
        "metrics": {"psnr": "PSNR (↑)", "lpips": "LPIPS (↓)"},
    }
    plots = [Plot(folder / "large.png", "A plot")]
    for name in ("report.html", "report"):
        write_page(folder / name, clips, title="Test & page", scores=scores, plots=plots)
    return {"file": folder / "report.html", "folder": folder / "report" / "index.html"}


def open_page(driver, path):
    """Opens a page at its first clip; returns its viewer."""
    driver.get("about:blank")
    driver.get(path.as_uri())
    wait(driver, SHOWN + NO_SEEK, 0)
    return driver.find_element("id", "viewer")


@pytest.fixture
def opened(browser, pages):
    """A freshly opened page, and its viewer."""
    yield browser, open_page(browser, pages["file"])
    assert console(browser) == []


def click(driver, name):
    driver.find_element("id", name).click()


def press(driver, keys):
    driver.find_element("id", "viewer").send_keys(keys)


def split(driver):
    return float(driver.find_element("class name", "divider").get_attribute("aria-valuenow"))


def assert_colour(element, x, colour, y=0.75):
    """The screen shows a colour, now or soon: a frame is painted later than its seek has ended.

    A browser that gets little of the processor may drop a paused video's frame: after a while it is
    asked for that frame again.
    """
    began = time.monotonic()
    while np.abs((found := colour_at(element, x, y)) - colour).max() >= 12:
        waited = time.monotonic() - began
        assert waited < 60, f"{found} at {x}, {y}; {colour} is wanted"
        if waited > 10:
            element.parent.execute_script("clock.videos.forEach((v) => { v.currentTime += 1e-3; })")


def test_the_divider_shows_left_and_right_and_moves_by_mouse_and_keys(opened):
    driver, viewer = opened
    assert_colour(viewer, 0.25, RED)
    assert_colour(viewer, 0.75, BLUE)
    webdriver = pytest.importorskip("selenium.webdriver")
    divider = driver.find_element("class name", "divider")
    step = viewer.size["width"] * 0.4
    webdriver.ActionChains(driver).drag_and_drop_by_offset(divider, -int(step), 0).perform()
    assert split(driver) == pytest.approx(10, abs=1)
    assert_colour(viewer, 0.25, BLUE)
    divider.send_keys("\ue014")  # arrow right
    assert split(driver) == pytest.approx(11, abs=1)
    divider.send_keys("\ue010")  # end
    assert split(driver) == 100
    assert_colour(viewer, 0.75, RED)


def test_the_mask_can_be_turned_on_and_off(opened):
    driver, viewer = opened
    tinted = 0.5 * np.array(RED) + 0.5 * np.array([29, 111, 209])
    press(driver, "m")
    assert driver.find_element("id", "mask-canvas").is_displayed()
    assert_colour(viewer, 0.25, tinted)
    assert_colour(viewer, 0.75, BLUE)
    click(driver, "mask")
    assert not driver.find_element("id", "mask-canvas").is_displayed()
    assert_colour(viewer, 0.25, RED)


def test_the_border_of_the_mask_is_seen_where_the_picture_is_small(opened):
    driver, viewer = opened
    driver.find_element("class name", "divider").send_keys("\ue010")  # end: out of the way
    press(driver, "m")
    driver.execute_script("viewer.root.style.maxWidth = arguments[0]", f"{WIDTH // 2}px")
    wait(driver, "viewer.drawnLine == 2")
    image = pixels(viewer).astype(int)
    assert image.shape[:2] == (HEIGHT // 2, WIDTH // 2)
    yellow = np.abs(image - (255, 204, 51)).max(-1) < 12
    assert yellow[3 * HEIGHT // 8 :, WIDTH // 4].all()  # below the names of the versions
    press(driver, "1")  # pixel for pixel
    wait(driver, "viewer.drawnLine == 1")


def test_both_videos_show_the_same_frame_after_steps(opened):
    driver, viewer = opened
    press(driver, "..")
    wait(driver, SHOWN + NO_SEEK, 2)
    for x, colour in ((0.25, RED), (0.75, BLUE)):
        assert_colour(viewer, x, frame(colour, 2, 1, 1)[0, 0])
    click(driver, "frame-before")
    wait(driver, SHOWN + NO_SEEK, 1)
    for x, colour in ((0.25, RED), (0.75, BLUE)):
        assert_colour(viewer, x, frame(colour, 1, 1, 1)[0, 0])


def test_a_folder_shows_the_same(browser, pages):
    viewer = open_page(browser, pages["folder"])
    assert_colour(viewer, 0.25, RED)
    assert_colour(viewer, 0.75, BLUE)
    wait(browser, "document.querySelector('#plots img').naturalWidth")
    assert console(browser) == []


def test_playing_keeps_both_together(opened):
    driver, _ = opened
    driver.execute_script(
        "window.apart = []; clock.setSpeed(0.5); clock.play(); setInterval(() => {"
        "const [a, b] = clock.videos; apart.push((a.currentTime - b.currentTime) * clock.rate);"
        "}, 20)"
    )
    wait(driver, "apart.length > 60 && clock.frame > 4")
    apart = np.abs(driver.execute_script("return apart"))
    assert np.median(apart) < 0.5 and np.quantile(apart, 0.9) < 1.5  # frames


def test_playing_moves_both_and_a_pause_stops_on_one_frame(opened):
    driver, viewer = opened
    click(driver, "play")
    wait(driver, "clock.frame >= 3")
    click(driver, "play")
    wait(driver, "!clock.playing && " + NO_SEEK)
    shown = driver.execute_script("return clock.frame")
    for x, colour in ((0.25, RED), (0.75, BLUE)):
        assert_colour(viewer, x, frame(colour, shown, 1, 1)[0, 0])


def test_zoom_stays_when_version_frame_and_clip_change(opened):
    driver, viewer = opened
    press(driver, "++")
    transform = "return document.querySelector('.picture').style.transform"
    zoomed = driver.execute_script(transform)
    assert "scale(2.25)" in zoomed
    click(driver, "swap")
    wait(driver, SHOWN + NO_SEEK, 0)
    assert_colour(viewer, 0.25, BLUE)
    press(driver, ".")
    press(driver, "]")
    wait(driver, "document.querySelector('.viewer img')?.complete")
    assert driver.execute_script(transform) == zoomed
    press(driver, "0")
    assert "scale(1)" in driver.execute_script(transform)


def test_an_odd_version_fits_and_a_picture_has_no_transport(opened):
    driver, viewer = opened
    driver.execute_script("chooseSide('right', 2)")
    wait(driver, SHOWN + NO_SEEK, 0)
    assert_colour(viewer, 0.98, BLUE, y=0.97)
    press(driver, "]")
    wait(driver, "[...document.querySelectorAll('.viewer img')].every((i) => i.complete)")
    assert_colour(viewer, 0.25, RED)
    assert_colour(viewer, 0.75, BLUE)
    assert not driver.find_element("id", "transport").is_displayed()
    assert not driver.find_element("id", "mask").is_displayed()


def test_scores_stages_and_plots_are_there(opened):
    driver, _ = opened
    text = driver.find_element("id", "clip-scores").text
    assert "31.50" in text and "∞" in text and "psnr ↑" in text and "frames" not in text
    assert "3.500" in driver.find_element("id", "stages").text
    assert "50.0 %" in driver.find_element("id", "skipped").text
    assert (
        driver.execute_script("return document.querySelector('#plots img').naturalWidth") == WIDTH
    )
    assert "moving </script>" in driver.find_element("id", "all-clips").text


def test_a_phone_needs_no_sideways_scrolling(opened):
    driver, viewer = opened
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wide = "return [document.documentElement.scrollWidth, innerWidth, arguments[0].clientWidth]"
        scrolled, window, shown = driver.execute_script(wide, viewer)
        assert scrolled <= window == 390 and shown > 350
        small = driver.execute_script(
            "return [...document.querySelectorAll('button, select')].filter((e) =>"
            " e.offsetParent && !e.closest('table') && e.offsetHeight < 40).map((e) => e.id)"
        )
        assert small == []  # all can be hit with a finger
        table = driver.find_element("css selector", "#means .scroll")
        driver.execute_script("arguments[0].firstChild.style.width = '900px'", table)
        left, right = ("arguments[0].scrollLeft = " + at for at in ("0", "9999"))
        end, shades = time.monotonic() + 60, [0, 0]
        while shades[0] >= shades[1] - 40:  # a shadow says that the table goes on
            assert time.monotonic() < end, shades
            shades = []
            for script in (left, right):
                driver.execute_script(script, table)
                time.sleep(0.1)  # it is painted after the event of scrolling
                shades.append(int(pixels(table)[4:20, -4:].mean()))
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_best_of_a_metric_is_marked_by_its_end_or_its_target(browser, pages):
    open_page(browser, pages["file"])

    def marked(values, metric, doubtful=()):
        script = "return best(arguments[0], arguments[1], arguments[2])"
        return browser.execute_script(script, values, metric, list(doubtful))

    up, down = ({"name": "m", "direction": way, "target": None} for way in (1, -1))
    near = {"name": "m", "direction": 0, "target": 1}
    assert marked([0.5, 1.2, 2], up) == 2 and marked([0.5, 1.2, 2], down) == 0.5
    assert marked([0.5, 1.2, 2], near) == 1.2 and marked([1.2, None], near) is None
    assert marked([0.5, 1.2, 2], down, ["m"]) is None
