"""The page in a real browser: what a person sees, presses and types."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from conftest import colour_squares
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import trmml
from trmml.app.workspace import Workspace
from trmml.data.writing import write_dataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher

CHROMIUM, DRIVER = which("chromium") or which("chromium-browser"), which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


class Browser:
    """A browser with one page open."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ):
            options.add_argument(argument)
        options.binary_location = str(CHROMIUM)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))

    def open(self, address: str, width: int = 1280, height: int = 800) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.driver.get(address)

    def command(self, name: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, values)

    def text(self, element: str) -> str:
        return self.driver.find_element(By.ID, element).text

    def press(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, is_so: Callable[[], Any], seconds: float = 30) -> None:
        WebDriverWait(self.driver, seconds, 0.05).until(lambda _: is_so())

    def until_asked(self) -> tuple[str, str]:
        self.until(
            lambda: self.text("question") and not self.text("question").startswith("Nothing")
        )
        return self.text("name"), self.text("question")

    def errors(self) -> list[str]:
        return [line["message"] for line in self.driver.get_log("browser")]


@pytest.fixture
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.driver.quit()


def answers_of(workspace: Workspace) -> list[tuple[str, str, str]]:
    return [(a.image, a.label, a.reply) for a in workspace.journal.answers.values()]


@pytest.fixture
def asked_at(
    browser: Browser, make_workspace: Callable[..., Workspace], served: Callable[..., str],
    colour_model: TextRegionMatcher,
) -> Workspace:  # fmt: skip
    """The workspace of a page that shows its first question."""
    workspace = make_workspace()
    browser.open(served(colour_model, workspace))
    browser.until_asked()
    return workspace


def test_answering_by_keys_alone(browser: Browser, asked_at: Workspace) -> None:
    asked = []
    for count, (key, reply) in enumerate((("y", "yes"), ("n", "no"), (" ", "unsure")), 1):
        photo, question = browser.until_asked()
        asked.append((photo, question.removesuffix("?"), reply))
        browser.press(key)
        browser.until(lambda count=count: len(asked_at.journal.answers) == count)
        browser.until(lambda seen=(photo, question): browser.until_asked() != seen)
    assert answers_of(asked_at) == asked
    assert browser.text("figures").startswith("3 answers")
    browser.press(Keys.BACKSPACE)
    browser.until(lambda: browser.until_asked() == (asked[2][0], asked[2][1] + "?"))
    assert answers_of(asked_at) == asked[:2]
    browser.press(Keys.ARROW_LEFT)
    browser.until(lambda: browser.text("name") == asked[1][0])
    assert "you said no" in browser.text("hint")
    browser.press("y")
    browser.until(lambda: len(asked_at.journal.answers) == 3)
    assert answers_of(asked_at)[-1] == (*asked[1][:2], "yes")
    browser.until_asked()
    browser.press("h")
    browser.until(
        lambda: "/heatmap/" in browser.driver.find_element(By.ID, "photo").get_attribute("src")
    )
    browser.until(
        lambda: browser.driver.execute_script("return photo.complete && photo.naturalWidth")
    )
    before = browser.until_asked()
    browser.press(Keys.ARROW_RIGHT)
    browser.until(lambda: browser.until_asked() != before)
    assert len(asked_at.journal.answers) == 3
    assert browser.errors() == []


def test_a_grid_with_two_wrong_ones(browser: Browser, asked_at: Workspace) -> None:
    asked_at.estimator.wait(60)
    browser.press("g")
    browser.until(lambda: browser.all(".tile"))
    tiles = browser.all(".tile")
    names = [tile.get_attribute("aria-label").split(",")[0] for tile in tiles]
    tiles[0].click()
    tiles[1].click()
    tiles[1].click()
    browser.click("#confirm")
    browser.until(lambda: len(asked_at.journal.answers) == len(names))
    replies = ["no", "unsure", *["yes"] * (len(names) - 2)]
    assert answers_of(asked_at) == [(n, "red", r) for n, r in zip(names, replies, strict=True)]
    assert browser.errors() == []


def test_learning_and_undoing_any_answer(browser: Browser, asked_at: Workspace) -> None:
    browser.press("y")
    browser.until(lambda: asked_at.journal.answers)
    asked_at.estimator.wait(60)
    browser.click("#tab-learn")
    browser.until(lambda: browser.driver.find_element(By.ID, "start").is_enabled())
    browser.click("#start")
    browser.until(lambda: browser.all("#rounds tbody tr"), 60)
    (last,) = asked_at.estimator.rounds
    assert f"{last['measured_on']} cells, {last['measured_labels']} labels" in browser.text(
        "rounds"
    )
    assert ("too few random answers" in browser.text("note")) == (last["after"] is None)
    browser.click("#tab-history")
    browser.until(lambda: browser.all(".history button"))
    browser.click(".history button")
    browser.until(lambda: not asked_at.journal.answers)
    assert browser.errors() == []


def test_a_tab_that_is_loaded_again_asks_what_it_asked_before(
    browser: Browser, make_workspace: Callable[..., Workspace], served: Callable[..., str],
    colour_model: TextRegionMatcher,
) -> None:  # fmt: skip
    workspace = make_workspace()
    address = served(colour_model, workspace)
    browser.open(address)
    workspace.estimator.wait(60)
    browser.driver.refresh()
    asked = browser.until_asked()
    browser.driver.refresh()
    assert browser.until_asked() == asked


def test_two_tabs_never_show_the_same_question(
    browser: Browser, make_workspace: Callable[..., Workspace], served: Callable[..., str],
    colour_model: TextRegionMatcher,
) -> None:  # fmt: skip
    workspace = make_workspace()
    address = served(colour_model, workspace)
    browser.open(address)
    asked = [browser.until_asked()]
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.open(address)
    second = browser.driver.current_window_handle
    asked.append(browser.until_asked())
    for tab in (first, second, first, second):
        browser.driver.switch_to.window(tab)
        before = browser.until_asked()
        browser.press("n")
        browser.until(lambda before=before: browser.until_asked() != before)
        asked.append(browser.until_asked())
    assert len(set(asked)) == len(asked)
    assert len(set(answers_of(workspace))) == 4


HOSTILE = "<img src=x onerror=document.title='owned'>"


def test_html_in_names_is_shown_as_text(
    browser: Browser, make_workspace: Callable[..., Workspace], served: Callable[..., str],
    tmp_path: Path, colour_model: TextRegionMatcher,
) -> None:  # fmt: skip
    data = colour_squares(tmp_path / "photos", 6)
    odd = tmp_path / "photos" / "<b>bold<b> \"quoted\" 'x'\nline.png"
    data.photos[0].rename(odd)
    labels = (HOSTILE, "</script><script>document.title='owned'</script>", "blue")
    states = data.states.copy()
    states[:] = UNKNOWN
    hostile = replace(
        data, photos=(odd, *data.photos[1:]), labels=labels, states=states, source=HOSTILE
    )
    model = colour_model.relabelled(labels)
    workspace = make_workspace(hostile, model=model)
    browser.open(served(model, workspace))
    for _ in range(6):
        photo, question = browser.until_asked()
        assert question.removesuffix("?") in labels
        browser.press("y")
        browser.until(
            lambda seen=(photo, question): (browser.text("name"), browser.text("question")) != seen
        )
    for tab in ("learn", "history", "try", "answer"):
        browser.click(f"#tab-{tab}")
        time.sleep(0.2)
    browser.press("g")
    browser.until(lambda: browser.text("grid-title"))
    assert browser.driver.title != "owned"
    assert not browser.all("img[src=x], #answers b")
    said = {answer.image for answer in workspace.journal.answers.values()}
    assert odd.name in said
    assert [line for line in browser.errors() if "favicon" not in line] == []
    workspace.save()
    read = trmml.read_dataset(workspace.output, images=tmp_path / "photos")
    assert read.labels == labels
    assert (read.states == POSITIVE).sum() == 6


@pytest.mark.parametrize("width", [390, 768, 1280, 2560])
def test_nothing_is_wider_than_the_window(
    browser: Browser, make_workspace: Callable[..., Workspace], served: Callable[..., str], width: int,
    colour_model: TextRegionMatcher,
) -> None:  # fmt: skip
    workspace = make_workspace()
    browser.open(served(colour_model, workspace), width)
    browser.until_asked()
    for view in ("answer", "learn", "history", "try"):
        browser.click(f"#tab-{view}")
        time.sleep(0.1)
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, view
        for button in browser.all("main button, nav button"):
            if button.is_displayed():
                assert button.accessible_name.strip(), button.get_attribute("outerHTML")
    browser.click("#tab-answer")
    browser.press("g")
    browser.until(lambda: browser.all(".tile"))
    size = browser.all(".tile")[0].size
    assert size["height"] > 0.6 * size["width"]
    browser.press("g")
    browser.until_asked()
    # All of the answer view is in the window: nobody scrolls to press a button.
    bottom = browser.driver.execute_script("return heatmap.getBoundingClientRect().bottom")
    assert bottom <= 800


def test_trying_photos(
    browser: Browser, served: Callable[..., str], colour_model: TextRegionMatcher, tmp_path: Path
) -> None:
    data = colour_squares(tmp_path / "photos", 2)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no photo")
    browser.open(served(colour_model))
    browser.until(lambda: "3 labels" in browser.text("model"))
    assert not browser.driver.find_element(By.ID, "tab-answer").is_displayed()
    files = [*data.photos, tmp_path / "photos" / "bad.png"]
    browser.driver.find_element(By.ID, "file").send_keys("\n".join(map(str, files)))
    browser.until(lambda: len(browser.all("#tried > .card")) == 3)
    assert "not a picture" in browser.text("tried")
    scores = [tag.text for tag in browser.all("#tried .photo:last-child .tag .value")]
    expected = sorted(colour_model.predict(data.photos[0]).values(), reverse=True)
    assert scores == [f"{score:.2f}" for score in expected]
    browser.click("#tried .photo:last-child .tag")
    shown = browser.all("#tried .photo:last-child img")[0]
    browser.until(lambda: "label=" in shown.get_attribute("src"))
    browser.until(lambda: browser.driver.execute_script("return arguments[0].naturalWidth", shown))
    assert [line for line in browser.errors() if "422" not in line] == []


def test_a_process_killed_in_the_middle_loses_nothing(
    browser: Browser, tmp_path: Path, colour_model: TextRegionMatcher
) -> None:
    data = colour_squares(tmp_path / "photos", 12)
    states = data.states.copy()
    states[:] = UNKNOWN
    write_dataset(replace(data, states=states), tmp_path / "photos" / "labels.csv")
    model = trmml.save_model(colour_model, tmp_path / "model")
    command = [sys.executable, "-m", "trmml", "label", str(tmp_path / "photos" / "labels.csv"),
               "--model", str(model), "--no-open"]  # fmt: skip
    journal = tmp_path / "photos" / "labels.answers.jsonl"
    asked: list[tuple[str, str]] = []
    for end in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        browser.open(process.stdout.readline().strip())
        for _ in range(4):
            shown = browser.until_asked()
            asked.append(shown)
            browser.press("n")
            browser.until(lambda shown=shown: browser.until_asked() != shown)
        os.kill(process.pid, end)
        process.communicate(timeout=60)
    assert len(set(asked)) == 8
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [(line["image"], line["label"] + "?") for line in lines] == asked
    read = trmml.read_dataset(tmp_path / "photos" / "labels.answered.csv")
    assert (read.states == NEGATIVE).sum() == 8
    browser.press("n")
    browser.until(lambda: "Your answers so far are saved" in browser.text("note"))
