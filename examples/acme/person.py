"""A person in a browser, played over plain HTTP: own cookies, follows redirects, reads pages, submits their forms.

For the demo and for tests. A person never holds a token of ours: what they do is what the pages let them do.

    alice = Person("alice")
    token = alice.id_token(idp_issuer="http://127.0.0.1:8081", client_id="acme-web")
    alice.connect("http://127.0.0.1:8080/connect?connection=crm")
    alice.decide("http://127.0.0.1:8080/approvals/...", approve=True)
"""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urljoin, urlsplit

import requests

_MAX_STEPS = 30
_SCOPES = ("openid", "profile", "email", "groups")
_APPROVE = ("approve", "allow", "accept", "confirm", "yes")
_REFUSE = ("refuse", "deny", "reject", "decline", "no")
_GO_ON = ("connect", "continue", "log in", "sign in", *_APPROVE)


class StuckError(Exception):
    """The page does not offer what the person wanted to do. The message names the page, without its query."""


@dataclass(frozen=True)
class Button:
    """A way to submit a form. `label` is what the person reads."""

    name: str | None
    value: str
    label: str


@dataclass(frozen=True)
class Form:
    """One form of a page: where it goes, its filled-in fields and its buttons."""

    method: str
    action: str
    fields: tuple[tuple[str, str], ...]
    buttons: tuple[Button, ...]


@dataclass(frozen=True)
class Page:
    """What the browser shows: `url` after all redirects, HTTP status, visible text, forms."""

    url: str
    status: int
    text: str
    forms: tuple[Form, ...] = ()
    visited: tuple[str, ...] = field(default=())

    @property
    def address(self) -> str:
        """The URL without query and fragment, safe to print."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


class _PageReader(HTMLParser):
    """Collects forms with their fields and buttons, and the visible text."""

    def __init__(self, base: str) -> None:
        super().__init__(convert_charrefs=True)
        self._base = base
        self._action = ""
        self._method = ""
        self._fields: list[tuple[str, str]] | None = None
        self._buttons: list[Button] = []
        self._button: dict[str, str | None] | None = None
        self._label: list[str] = []
        self._hidden_depth = 0
        self.forms: list[Form] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in ("style", "script", "title"):
            self._hidden_depth += 1
        elif tag == "form":
            self._fields, self._buttons = [], []
            self._method = (attributes.get("method") or "get").lower()
            self._action = urljoin(self._base, attributes.get("action") or self._base)
        elif self._fields is None:
            return
        elif tag == "button":
            self._button, self._label = attributes, []
        elif tag == "input":
            self._read_input(attributes, self._fields)

    def _read_input(self, attributes: Mapping[str, str | None], fields: list[tuple[str, str]]) -> None:
        kind, name, value = attributes.get("type"), attributes.get("name"), attributes.get("value") or ""
        if kind == "submit":
            self._buttons.append(Button(name, value, value))
        elif name and (kind not in ("checkbox", "radio") or "checked" in attributes):
            fields.append((name, value))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script", "title"):
            self._hidden_depth -= 1
        elif tag == "button" and self._button is not None:
            label = " ".join("".join(self._label).split())
            self._buttons.append(Button(self._button.get("name"), self._button.get("value") or "", label))
            self._button = None
        elif tag == "form" and self._fields is not None:
            self.forms.append(Form(self._method, self._action, tuple(self._fields), tuple(self._buttons)))
            self._fields = None

    def handle_data(self, data: str) -> None:
        if self._button is not None:
            self._label.append(data)
        if not self._hidden_depth and data.strip():
            self.words.append(" ".join(data.split()))


class Person:
    """`login` in their own browser. `session` may be given to reach services that are not on a socket."""

    def __init__(self, login: str, *, session: requests.Session | None = None, timeout_s: float = 15.0) -> None:
        self.login = login
        self._session = session or requests.Session()
        self._session.trust_env = False
        self._timeout_s = timeout_s

    def close(self) -> None:
        self._session.close()

    # --- browsing -----------------------------------------------------------------------------------------------------

    def open(self, url: str) -> Page:
        """GET `url`, following redirects."""
        return self._load("get", url, None, lambda _: False)

    def submit(self, page: Page, form: Form, button: Button) -> Page:
        """Press `button` of `form`, following redirects."""
        return self._submit(page, form, button, lambda _: False)

    def _submit(self, page: Page, form: Form, button: Button, stop: Callable[[str], bool]) -> Page:
        fields = [*form.fields, *([(button.name, button.value)] if button.name else [])]
        return self._load(form.method, form.action, fields, stop, referrer=page.url)

    def _load(
        self,
        method: str,
        url: str,
        fields: list[tuple[str, str]] | None,
        stop: Callable[[str], bool],
        *,
        referrer: str | None = None,
    ) -> Page:
        """Load `url` and whatever it redirects to; a URL that `stop` names is not fetched but returned as status 0."""
        if method == "get" and fields:
            url = f"{url.partition('?')[0]}?{urlencode(fields)}"
            fields = None
        visited: list[str] = []
        for _ in range(_MAX_STEPS):
            visited.append(url)
            if stop(url):
                return Page(url, 0, "", visited=tuple(visited))
            headers = {"Accept": "text/html"}
            if method == "post" and referrer is not None:
                headers["Origin"] = "{0.scheme}://{0.netloc}".format(urlsplit(referrer))
            answer = self._session.request(
                method.upper(), url, data=fields, headers=headers, timeout=self._timeout_s, allow_redirects=False
            )
            if answer.is_redirect:
                if answer.status_code not in (307, 308):
                    method, fields = "get", None
                url = urljoin(url, answer.headers["Location"])
                continue
            reader = _PageReader(url)
            if "html" in answer.headers.get("Content-Type", ""):
                reader.feed(answer.text)
            return Page(url, answer.status_code, " ".join(reader.words), tuple(reader.forms), tuple(visited))
        raise StuckError("too many redirects")

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _own_button(self, page: Page) -> tuple[Form, Button] | None:
        """The button that says "I am this person"."""
        return _find(page, lambda button: button.value == self.login)

    def _step(self, page: Page, stop: Callable[[str], bool]) -> Page:
        """Do the one thing the page asks for: say who I am, or agree."""
        choice = self._own_button(page) or _find(
            page, lambda button: button.name != "account" and _says(button, _GO_ON)
        )
        if choice is None:
            raise StuckError(f"{page.address} answered {page.status} and offers nothing to agree to")
        return self._submit(page, *choice, stop)

    def _walk(self, page: Page, done: Callable[[Page], bool], stop: Callable[[str], bool] = lambda _: False) -> Page:
        """Agree page by page until `done`. The returned page's `visited` holds the whole way."""
        visited = page.visited
        for _ in range(_MAX_STEPS):
            if page.status == 0 or page.status >= 400 or done(page):
                return Page(page.url, page.status, page.text, page.forms, visited)
            page = self._step(page, stop)
            visited += page.visited
            if done(Page(page.url, page.status, page.text, page.forms, visited)):
                return Page(page.url, page.status, page.text, page.forms, visited)
        raise StuckError("too many pages")

    def id_token(
        self,
        *,
        idp_issuer: str,
        client_id: str,
        redirect_uri: str = "http://127.0.0.1:9/cb",
        client_secret: str | None = None,
        **parameters: str,
    ) -> str:
        """Log in at the IdP for `client_id` and return its ID token. `parameters`: `max_age`, `prompt`, `nonce`, ...

        `redirect_uri` is never fetched, as a command-line client would catch it. Raises StuckError.
        """
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        metadata = self._json("GET", f"{idp_issuer}/.well-known/openid-configuration")
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(scope for scope in _SCOPES if scope in metadata.get("scopes_supported", _SCOPES)),
            "state": state,
            "nonce": secrets.token_urlsafe(16),
            "login_hint": self.login,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **parameters,
        }

        def is_callback(url: str) -> bool:
            return url.partition("?")[0] == redirect_uri

        page = self._load("get", f"{metadata['authorization_endpoint']}?{urlencode(query)}", None, is_callback)
        page = self._walk(page, lambda _: False, is_callback)
        answer = dict(parse_qsl(urlsplit(page.url).query)) if page.status == 0 else {}
        if answer.get("state") != state or answer.get("iss", idp_issuer) != idp_issuer or "code" not in answer:
            raise StuckError(f"the login ended with {answer.get('error', page.status)}")
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            "client_id": client_id,
            **({} if client_secret is None else {"client_secret": client_secret}),
        }
        return str(self._json("POST", metadata["token_endpoint"], form)["id_token"])

    def _json(self, method: str, url: str, form: Mapping[str, str] | None = None) -> Any:
        answer = self._session.request(method, url, data=form, timeout=self._timeout_s, allow_redirects=False)
        if answer.status_code != 200:
            raise StuckError(f"{url.partition('?')[0]} answered {answer.status_code}")
        return answer.json()

    def log_in(self, url: str) -> Page:
        """Follow the broker's `/login?idp=N&to=PATH` to the page of that path. Raises StuckError."""
        start = urlsplit(url)
        wanted = f"{start.scheme}://{start.netloc}{parse_qs(start.query)['to'][0].partition('?')[0]}"
        return self._walk(self.open(url), lambda page: page.url.partition("?")[0] == wanted)

    def connect(self, url: str) -> Page:
        """Follow the broker's `/connect?connection=ID` through login and consent to the page after the callback.

        Raises StuckError when a page on the way offers no way on; a page of an error status is returned as it is.
        """
        start = urlsplit(url)
        callback = f"{start.scheme}://{start.netloc}/connect/callback/{parse_qs(start.query)['connection'][0]}"

        def done(page: Page) -> bool:
            came_back = any(visited.partition("?")[0] == callback for visited in page.visited)
            return came_back and page.url.startswith(f"{start.scheme}://{start.netloc}/")

        return self._walk(self.open(url), done)

    def decide(self, url: str, *, approve: bool) -> Page:
        """Open the approval page at `url`, logging in when asked, and approve or refuse. Returns the page after that.

        Raises StuckError when the approval page offers no such button, for example because it was decided before.
        """
        page = self.approval_page(url)
        if page.status >= 400:
            return page
        choice = _find(page, lambda button: _says(button, _APPROVE if approve else _REFUSE))
        if choice is None:
            raise StuckError(f"{page.address} offers no decision")
        return self.submit(page, *choice)

    def approval_page(self, url: str) -> Page:
        """The approval page itself, after any login it asks for; nothing is decided."""
        wanted = url.partition("?")[0]
        return self._walk(self.open(url), lambda page: page.url.partition("?")[0] == wanted)


def _says(button: Button, words: tuple[str, ...]) -> bool:
    """True when the button's value or name is one of `words`, or its label begins with one."""
    said = f"{button.label.casefold()} "
    return any(
        word in (button.value.casefold(), (button.name or "").casefold()) or said.startswith(f"{word} ")
        for word in words
    )


def _find(page: Page, wanted: Callable[[Button], bool]) -> tuple[Form, Button] | None:
    return next(
        ((form, button) for form in page.forms for button in form.buttons if wanted(button)),
        None,
    )
