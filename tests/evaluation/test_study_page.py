"""The page of a study in a browser: blind, in any order, and with the answers that were given."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
from browser import colour_at, console, wait

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.study_page import (
    Key,
    Trial,
    read_answers,
    seal,
    unseal,
    write_study,
)
from skipsr_jax.media.image_writer import write_image
from skipsr_jax.media.video_writer import VideoWriter

RED, BLUE = (200, 20, 20), (20, 20, 200)
CLIPS = ("walnut", "pear", "plum", "quince")
READY = "[...document.querySelectorAll('#trial .picture > *')].filter((e) => e.complete ||"
READY += " (e.readyState >= 2 && !e.seeking)).length == 2"


def write_video(path, colour):
    with VideoWriter(path, height=48, width=64, rate=Fraction(10)) as writer:
        for index in range(5):
            frame = np.full((48, 64, 3), colour, np.uint8)
            frame[..., 1] += 20 * index
            writer.write(frame)
    return path


def trials_in(folder):
    """Result a is red and b blue in all clips; the last one is a picture."""
    trials = []
    for name in CLIPS[:-1]:
        a, b = folder / f"{name}_first_method.mp4", folder / f"{name}_second_method.mp4"
        trials.append(Trial(name, write_video(a, RED), write_video(b, BLUE)))
    for name, colour in (("a.png", RED), ("b.png", BLUE)):
        write_image(folder / name, np.full((48, 64, 3), colour, np.uint8))
    return [*trials, Trial(CLIPS[-1], folder / "a.png", folder / "b.png", folder / "a.png")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    names = ("first_method", "second_method")
    write_study(
        folder / "study.html", trials_in(folder), names, title="A study", question="Better?"
    )
    return folder / "study.html"


def contents_of(page):
    return json.loads(re.search(r'id="contents">(.*?)</script>', page.read_text("utf-8"))[1])


def begin(driver, page, viewer):
    driver.get("about:blank")
    driver.get(page.as_uri())
    driver.execute_script("try { localStorage.clear(); } catch (error) { }")
    driver.find_element("id", "viewer").send_keys(viewer)
    driver.find_element("id", "begin").click()
    wait(driver, READY)


def sides(driver):
    """Which pane shows a, by the pixels: 1 or 2."""
    colours = [colour_at(driver.find_element("id", f"pane-{i}"), 0.5, 0.5) for i in (1, 2)]
    red = [bool(colour[0] > colour[2]) for colour in colours]
    assert sorted(red) == [False, True]
    return 1 if red[0] else 2


def test_a_viewer_prefers_a_in_some_pairs_and_the_file_says_so(browser, page, tmp_path):
    driver = browser
    begin(driver, page, "Ada")
    wanted, on_the_left = [], 0
    for index, choice in enumerate(("a", "same", "b", "a")):
        assert f"Pair {index + 1} of 4" in driver.find_element("id", "progress").text
        side = sides(driver)
        on_the_left += side == 1
        key = {"same": "s", "a": "12"[side - 1], "b": "21"[side - 1]}[choice]
        if index == 3:
            driver.find_element("css selector", f"[data-answer='{key}']").click()
            break
        driver.find_element("tag name", "body").send_keys(key)
        wait(driver, f"state.index == {index + 1} && {READY}")
        wanted.append(choice)
    assert 0 < on_the_left < 4
    assert driver.find_element("id", "save").is_displayed()
    saved = driver.execute_script("return answersFile()")
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(saved))
    key, answers = read_answers(path)
    assert (key.a, key.b) == ("first_method", "second_method")
    assert sorted(answer.clip for answer in answers) == sorted(CLIPS)
    assert {answer.viewer for answer in answers} == {"Ada"}
    assert sorted(answer.value for answer in answers) == [-1, 0, 1, 1]
    by_position = sorted(saved["answers"], key=lambda given: given["position"])
    of_clip = {answer.clip: answer.value for answer in answers}
    values = [of_clip[key.clips[given["pair"]]] for given in by_position]
    assert values == [1, 0, -1, 1]
    assert console(driver) == []


def test_saving_downloads_the_file(browser, page, tmp_path):
    driver = browser
    begin(driver, page, "Bo B.")
    download = {"behavior": "allow", "downloadPath": str(tmp_path)}
    driver.execute_cdp_cmd("Page.setDownloadBehavior", download)
    for index in range(4):
        driver.find_element("tag name", "body").send_keys("s")
        wait(driver, f"state.index == {index + 1} && ({READY} || !$('end').hidden)")
    driver.find_element("id", "save").click()
    path = tmp_path / "answers_Bo-B-.json"
    for _ in range(100):
        wait(driver, "new Promise((resolve) => setTimeout(() => resolve(true), 50))")
        if path.is_file():
            break
    _, answers = read_answers(path)
    assert [answer.value for answer in answers] == [0] * 4


def test_order_differs_between_viewers_and_back_changes_an_answer(browser, page):
    driver = browser
    orders = set()
    for viewer in ("Ada", "Bo", "Cy", "Di"):
        begin(driver, page, viewer)
        orders.add(json.dumps(driver.execute_script("return state.order")))
    assert len(orders) > 2
    driver.find_element("tag name", "body").send_keys("1")
    wait(driver, "state.index == 1")
    driver.find_element("id", "back").click()
    wait(driver, f"state.index == 0 && {READY}")
    pressed = driver.find_element("css selector", "[aria-pressed=true]")
    assert pressed.get_attribute("data-answer") == "1"
    pair = driver.execute_script("return state.order[0].pair")
    driver.find_element("tag name", "body").send_keys("s")
    wait(driver, "state.index == 1")
    assert driver.execute_script("return state.answers[arguments[0]].answer", pair) == "same"
    assert console(driver) == []


def test_the_page_names_no_result(page, tmp_path):
    html = page.read_text("utf-8")
    for word in ("first_method", "second_method", *CLIPS):
        assert word not in html
    folder = tmp_path / "study"
    trials = trials_in(tmp_path)
    write_study(folder, trials, ("first_method", "second_method"), title="t", question="?")
    names = sorted(path.name for path in (folder / "media").iterdir())
    assert names[:2] == ["000-x.mp4", "000-y.mp4"] and "003-input.png" in names
    key = unseal(contents_of(page)["key"])
    assert sum(key.x_is_a) == 2 and list(key.clips) == list(CLIPS)


def test_a_key_survives_and_other_files_are_refused(tmp_path):
    key = Key("a", "b", ["clip"], [True])
    assert unseal(seal(key)) == key
    for content in ("no json", "{}", '{"key": "AAAA", "viewer": "x", "answers": []}', "[]"):
        (tmp_path / "file.json").write_text(content)
        with pytest.raises(UserError, match="no answers"):
            read_answers(tmp_path / "file.json")


def test_results_of_two_sizes_are_refused(tmp_path):
    (trial, *_) = trials_in(tmp_path)
    write_image(tmp_path / "small.png", np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(UserError, match="differ in size"):
        bad = [Trial("x", trial.a, tmp_path / "small.png")]
        write_study(tmp_path / "s.html", bad, ("a", "b"), title="t", question="?")
    assert not (tmp_path / "s.html").exists()
