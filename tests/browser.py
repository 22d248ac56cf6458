"""A headless Chromium, and what a page did in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
WIDTHS = {"desktop": 1280, "phone": 390}


@dataclass
class Opened:
    """A page with all that it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def column(self, table: str, index: int) -> list[str]:
        """The texts of a column, of the rows that are shown."""
        return [
            cell.inner_text() for cell in self.page.locator(f"#{table} tbody tr:visible > :nth-child({index})").all()
        ]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, or a skip that says how to get it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium; apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, *, width: int = WIDTHS["desktop"], dark: bool = False) -> Iterator[Opened]:
    """A page of a file, loaded and drawn."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
    )
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(path.as_uri())
    found.page.wait_for_function(
        "document.querySelectorAll('.chart svg').length === document.querySelectorAll('.chart').length"
    )
    yield found
    context.close()
