"""A stack whose people log in at Keycloak and whose files lie behind Keycloak."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests
from playwright.sync_api import Browser, Page, sync_playwright
from tests.real import keycloak
from tests.real.organisation.stack import PASSWORD
from tests.running_stack import Stack, running_stack

from cab_dev.front_end import FrontEndSession
from cab_dev.stack_file import ClientEntry

FOLDER = Path(__file__).with_name("organisation")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    keycloak.install()
    with running_stack(
        tmp_path_factory.mktemp("keycloak"), "--config", str(FOLDER), "--emulators", "embedded"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def origin(stack: Stack) -> str:
    return str(stack.file.services["keycloak"].url)


@pytest.fixture(scope="session")
def admin(origin: str) -> keycloak.Admin:
    return keycloak.Admin(origin)


class Tokens:
    """The proxy before the token endpoint."""

    def __init__(self, url: str) -> None:
        self._url = url

    def fault(self, **fault: Any) -> None:
        requests.post(f"{self._url}/_control/faults", json={"grant_type": "refresh_token"} | fault, timeout=10)

    def clear(self) -> None:
        requests.delete(f"{self._url}/_control/faults", timeout=10)

    @property
    def refreshes(self) -> int:
        return int(requests.get(f"{self._url}/_control/count", timeout=10).json().get("refresh_token", 0))


@pytest.fixture
def tokens(stack: Stack) -> Iterator[Tokens]:
    proxy = Tokens(str(stack.file.services["tokens"].url))
    yield proxy
    proxy.clear()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def window(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def log_in(page: Page, username: str) -> None:
    """Fill in Keycloak's form, where it shows one."""
    if page.locator("#username").count():
        page.fill("#username", username)
        page.fill("#password", PASSWORD)
        with page.expect_navigation():
            page.click("[type=submit]")


def connect(page: Page, stack: Stack, username: str) -> str:
    """Connect the files of a user in Chromium: login at the broker, login at the files, back. The page's heading."""
    page.goto(f"{stack.file.origin}/connect?connection=files")
    choose_idp(page, stack, "plant" if username == "petra" else "staff")
    log_in(page, username)
    with page.expect_navigation():
        page.get_by_role("button", name="Connect Acme Files").click()
    log_in(page, username)
    return page.get_by_role("heading", level=1).inner_text()


def choose_idp(page: Page, stack: Stack, realm: str) -> None:
    """The tenant has two: the broker asks."""
    if page.url.startswith(stack.file.origin):
        with page.expect_navigation():
            page.locator("li", has_text=f"/realms/{realm}").get_by_role("link").click()


def id_token(origin: str, username: str, realm: str) -> str:
    """The front end's login of a person, played over plain HTTP."""
    base = f"{origin}/realms/{realm}/protocol/openid-connect"
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": "web",
        "redirect_uri": "http://127.0.0.1:9/cb",
        "scope": "openid profile email",
        "nonce": secrets.token_urlsafe(16),
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    with requests.Session() as session:
        page = session.get(f"{base}/auth?{urlencode(query)}", timeout=20)
        (action,) = re.findall(r'action="([^"]+)"', page.text)
        form = {"username": username, "password": PASSWORD, "credentialId": ""}
        # Cookies are set by hand: `requests` keeps to itself those that are Secure on a loopback address.
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)
        back = session.post(unescape(action), data=form, headers={"Cookie": cookies}, timeout=20, allow_redirects=False)
        answer = dict(parse_qsl(urlsplit(back.headers["Location"]).query))
        form = {
            "grant_type": "authorization_code",
            "client_id": "web",
            "code": answer["code"],
            "redirect_uri": "http://127.0.0.1:9/cb",
            "code_verifier": verifier,
        }
        return str(session.post(f"{base}/token", data=form, timeout=20).json()["id_token"])


def assertion(stack: Stack, origin: str, username: str) -> str:
    """What the front end of the user's realm mints for the assistant."""
    realm = "plant" if username == "petra" else "staff"
    file = stack.file
    key = str(stack.state_dir / "keys" / f"{realm}-web.json")
    front_end = ClientEntry(client_id=f"{realm}-web", private_key_file=key)
    session = FrontEndSession(replace(file, front_end=front_end))
    form = session.mint_form(id_token(origin, username, realm), agent="assistant")
    answer = requests.post(f"{file.edge_issuer}/token", data=form, timeout=20)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])
