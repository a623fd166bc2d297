"""A browser, and the web page of a server of the tiny model in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

from tests.server.live_server import tiny_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_MS = 30_000  # for what the page is to show
expect.set_options(timeout=WAIT_MS)
Pixels = npt.NDArray[np.uint8]  # [H, W, 3]
Open = Callable[..., AbstractContextManager["Visit"]]


@dataclass(slots=True)
class Visit:
    """The page, and what a user does with it."""

    page: Page

    def picture(self, path: Path) -> None:
        """Choose a picture, and wait for it."""
        self.page.set_input_files("#file", path)
        expect(self.page.locator("#painting")).to_be_visible()

    def drag(self, *points: tuple[float, float]) -> None:
        """Drag over the picture; places in shares of its width and height."""
        box = self.page.locator("#mask").bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def tool(self, name: str) -> None:
        """Brush, box or eraser."""
        self.page.get_by_label(name, exact=True).check()

    def edit(self, prompt: str = "a red apple") -> None:
        """Ask for the edit."""
        self.page.get_by_label("Prompt").fill(prompt)
        self.page.get_by_role("button", name="Edit", exact=True).click()

    def result(self, wait_ms: float = WAIT_MS) -> Pixels:
        """What is downloaded once the edit is done."""
        self.waits_for("#status", r"s, \d+ % of the tokens", wait_ms)
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name="Download").click()
        with Image.open(download.value.path()) as picture:
            return np.asarray(picture.convert("RGB"))

    def waits_for(self, selector: str, text: str, wait_ms: float = WAIT_MS) -> None:
        """Until the element's text matches."""
        expect(self.page.locator(selector)).to_contain_text(re.compile(text), timeout=wait_ms)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window. For a module without async tests: playwright's loop runs in this thread."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(tiny_builtin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of the tiny model."""
    with tiny_server(tiny_builtin, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def visiting(browser: Browser) -> Open:
    """Opens the page of a server. What it logs as an error, or is not given, fails the test, but for `refused` ones."""

    @contextmanager
    def visit(url: str, refused: frozenset[int] = frozenset()) -> Iterator[Visit]:
        faults: list[str] = []

        def look_at(reply: Response) -> None:
            if reply.status >= 400 and reply.status not in refused:
                faults.append(f"{reply.status} {reply.url}")

        page = browser.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", look_at)
        page.goto(url)
        yield Visit(page)
        page.close()
        assert [fault for fault in faults if not any(f"status of {status}" in fault for status in refused)] == []

    return visit


@pytest.fixture
def visit(visiting: Open, server: str) -> Iterator[Visit]:
    """The page of the tiny model's server."""
    with visiting(server) as opened:
        yield opened


@pytest.fixture
def picture_path(tmp_path: Path) -> Path:
    """A picture of noise, 96 x 64 pixels."""
    pixels = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    return path
