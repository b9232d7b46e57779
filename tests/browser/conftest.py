"""Chromium in front of the running stack, as a desktop and as a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from examples.acme.people import PEOPLE
from playwright.sync_api import Browser, Page, sync_playwright
from tests.running_stack import Stack

from cab_dev.stack_file import StackFile

SCREENSHOTS = Path(__file__).parent / "screenshots"
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}


@dataclass
class Visitor:
    """A person with a browser of their own. `complaints` are what the browser itself found wrong: policy breaches, errors."""

    page: Page
    login: str
    origin: str
    device: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Open a page of the broker and log in if it asks."""
        self.page.goto(path if "://" in path else self.origin + path)
        button = self.page.get_by_role("button", name=f"Continue as {PEOPLE[self.login].name}")
        if button.count() and not self.page.url.startswith(self.origin):
            button.click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def heading(self) -> str:
        return self.page.get_by_role("heading", level=1).inner_text()

    def picture(self, name: str) -> None:
        self.page.screenshot(path=SCREENSHOTS / f"{self.device}-{name}.png", full_page=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a module: its event loop must not outlive it, other tests bring their own."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def stack_file(stack: Stack) -> StackFile:
    return stack.file


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    SCREENSHOTS.mkdir(exist_ok=True)
    return str(request.param)


@pytest.fixture
def person(chromium: Browser, stack_file: StackFile, device: str) -> Iterator[Callable[..., Visitor]]:
    """`person("alice")` opens a browser window of her own; all are closed, and must have had no complaints, at the end."""
    visitors: list[Visitor] = []
    contexts: list[Any] = []

    def arrive(login: str, **options: Any) -> Visitor:
        context = chromium.new_context(**DEVICES[device], **options)
        context.set_default_timeout(20_000)
        visitor = Visitor(context.new_page(), login, stack_file.origin, device)
        visitor.page.on(
            "console", lambda message: visitor.complaints.append(message.text) if message.type == "error" else None
        )
        contexts.append(context)
        visitors.append(visitor)
        return visitor

    yield arrive
    for context in contexts:
        context.close()
    assert [complaint for visitor in visitors for complaint in visitor.complaints] == []


@contextmanager
def complaint_expected(visitor: Visitor) -> Iterator[None]:
    """Chromium notes every page of an error status."""
    yield
    visitor.complaints.clear()
