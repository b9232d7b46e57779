"""connect_account in this process, with Acme around it: its identity provider, its CRM and tracker, and people with browsers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests
from examples.acme.people import PEOPLE
from examples.acme.person import Page, Person
from examples.acme.services.crm import create_crm
from examples.acme.services.tracker import create_tracker
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.dev.doubles.in_process import browser_session
from tests.examples.acme_in_process import BROKER, CRM, IDP, SECRET, TRACKER, fresh_idp, provider_clients

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.keys.key_sets import KeySource, RemoteKeySets
from cab.domain.audit import AuditEvent, EventType
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import Grant, GrantStatus, grant_id
from cab.domain.identifiers import subject_key
from cab.ports import AccessToken, AnswerTooLarge, HttpAnswer, SendFailed, Unavailable
from cab.protocol.authorization_details import details_hash
from cab.stores.approvals import ApprovalDecisions, ApprovalRequest, ApprovalRequests, Binding
from cab.stores.grant_payloads import GrantPayloads, secret_id
from cab.stores.grants import Grants
from cab.stores.issued_tokens import IssuedTokens
from cab.stores.people.departures import Departures
from cab.stores.sessions import BrowserStates
from cab.transport.pages import pages_app
from cab.use_cases.audit.auditor import Auditor
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab_dev.doubles.clock import MovableClock
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.randomness import PredictableRandomness
from cab_dev.fakes.secrets import InMemoryVault

_Result = TypeVar("_Result")
START = datetime.fromisoformat("2027-01-15T08:00:00+00:00")
ACME = Path(__file__).resolve().parents[2] / "examples" / "acme"
ORIGINS = {
    "CAB_ORIGIN": BROKER,
    "ACME_IDP_ORIGIN": IDP,
    "ACME_CRM_ORIGIN": CRM,
    "ACME_TRACKER_ORIGIN": TRACKER,
    "ACME_WAREHOUSE_ORIGIN": "http://127.0.0.1:8084",
}


@cache
def _acme() -> Deployment:
    return FolderConfiguration(ACME, ORIGINS).load()


class AppClient:
    """`HttpClient` that reaches applications of this process by origin. `down` holds origins that refuse connections, `instead`
    what is answered to POST requests instead of what the application would answer."""

    def __init__(self, apps: Mapping[str, ASGIApp], *, what: str) -> None:
        self._apps = apps
        self._what = what
        self.down: set[str] = set()
        self.instead: HttpAnswer | None = None
        self.rewritten: Callable[[bytes], bytes] = lambda content: content  # bodies of answers to POST requests
        self.requests: list[tuple[str, str]] = []

    async def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 5, max_bytes: int = 102_400
    ) -> HttpAnswer:
        return await self._send("GET", url, b"", dict(headers or {}), max_bytes)

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
    ) -> HttpAnswer:
        sent = {"Content-Type": "application/x-www-form-urlencoded"} | dict(headers or {})
        return await self._send("POST", url, urlencode(form).encode(), sent, max_bytes)

    async def post_json(self, url: str, document: Any, **_: Any) -> HttpAnswer:
        raise AssertionError("no page posts JSON")

    async def _send(self, method: str, url: str, body: bytes, headers: dict[str, str], max_bytes: int) -> HttpAnswer:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        self.requests.append((method, url))
        if origin in self.down or origin not in self._apps:
            raise SendFailed(self._what, may_have_arrived=False)
        if method == "POST" and self.instead is not None:
            return self.instead
        headers["Host"] = parts.netloc
        status, answer_headers, content = await _call(
            self._apps[origin], method, parts.path, parts.query, headers, body
        )
        if len(content) > max_bytes:
            raise AnswerTooLarge
        return HttpAnswer(status, answer_headers, self.rewritten(content) if method == "POST" else content)


async def _call(
    app: ASGIApp, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    sent: list[Message] = []
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


def as_app(handle: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """The handler as functions-framework runs it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        response = await handle(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


class FakeRefresher:
    """`GrantTokens` for the way out: marks the grant revoked, as refresh_grants does."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self.revoked: list[tuple[str, str]] = []
        self.is_down = False
        self.confirms = True

    async def access_token(self, **_: Any) -> AccessToken:
        raise AssertionError("no page asks for a token")

    async def revoke(self, *, grant_id: str, cause: str, txn: str) -> bool:
        if self.is_down:
            raise Unavailable("grants")
        stored = await self._grants.read(grant_id)
        if stored is None:
            raise BrokerError(Reason.GRANT_MISSING)
        await self._grants.replace(stored, stored.grant.model_copy(update={"status": GrantStatus.REVOKED}))
        self.revoked.append((grant_id, cause))
        return self.confirms


class ForeverMoving:
    """The doubles' clock as the broker's sees it."""

    def __init__(self, clock: SettableClock) -> None:
        self._clock = clock

    def __call__(self) -> float:
        return self._clock.now().timestamp()


class AcmePages:
    """The pages and everything behind them. `apps` are the origins a browser can reach."""

    def __init__(self, *, change: Callable[[Deployment], Deployment] | None = None) -> None:
        self.clock = SettableClock(START)
        double_clock = MovableClock(ForeverMoving(self.clock))
        # One that is to be changed is read anew: copies keep what the original has worked out already.
        self.deployment = change(FolderConfiguration(ACME, ORIGINS).load()) if change else _acme()
        self.idp = fresh_idp(double_clock)
        self.crm = create_crm(issuer=CRM, clients=provider_clients("crm"), clock=double_clock)
        self.tracker = create_tracker(issuer=TRACKER, clients=provider_clients("tracker"), clock=double_clock)
        self.apps: dict[str, ASGIApp] = {IDP: self.idp, CRM: self.crm, TRACKER: self.tracker}
        self.idp_http = AppClient({IDP: self.idp}, what="identity_provider")
        self.provider_http = AppClient({CRM: self.crm, TRACKER: self.tracker}, what="provider")
        self.audit_log = InMemoryAuditLog()
        self.guards, self.approvals, self.grant_documents = (InMemoryDocuments() for _ in range(3))
        self.secrets, self.vault = InMemoryVault(), InMemoryVault()
        self.grants = Grants(self.grant_documents)
        self.states = BrowserStates(self.approvals)
        self.requests = ApprovalRequests(self.guards)
        self.decisions = ApprovalDecisions(self.approvals)
        self.issued_tokens = IssuedTokens(self.guards)
        self.refresher = FakeRefresher(self.grants)
        randomness = PredictableRandomness()
        sources = {idp.issuer: KeySource(issuer=idp.issuer) for idp in self.deployment.identity_providers}
        self.handle = pages_app(
            self.deployment,
            states=self.states,
            grants=self.grants,
            payloads=GrantPayloads(self.vault),
            provider_calls=ProviderCalls(self.provider_http, self.secrets),
            idp_http=self.idp_http,
            keys=RemoteKeySets(sources, self.idp_http, self.clock),
            client_secrets=self.secrets,
            approval_requests=self.requests,
            approval_decisions=self.decisions,
            issued_tokens=self.issued_tokens,
            grant_tokens=self.refresher,
            still_here=StillHere(self.deployment, Departures(self.approvals), self.clock),
            audit_log=self.audit_log,
            auditor=Auditor(self.audit_log, self.clock, randomness),
            clock=self.clock,
            randomness=randomness,
        )
        self.apps[self.deployment.broker.origin] = as_app(self.handle)
        asyncio.run(self._keep_client_secrets())

    async def _keep_client_secrets(self) -> None:
        for name in ("cab-idp-acme", "cab-provider-crm", "cab-provider-tracker"):
            await self.secrets.create(name)
            await self.secrets.add(name, SECRET.encode())

    # --- people ---

    def browser(self) -> requests.Session:
        """A browser of its own: cookies and nothing else."""
        return browser_session(self.apps)

    def person(self, login: str) -> Person:
        return Person(login, session=self.browser())

    def logged_in(self, login: str) -> Browser:
        """A fresh browser in which `login` has just logged in."""
        browser = Browser(self.browser(), login)
        browser.log_in()
        return browser

    def subject(self, login: str) -> str:
        return subject_key("acme", IDP, PEOPLE[login].subject)

    def wait(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))

    # --- what is there ---

    @staticmethod
    def run(work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run(work)

    def grant(self, login: str, connection: str = "crm") -> Grant | None:
        stored = asyncio.run(self.grants.read(grant_id("acme", self.subject(login), connection)))
        return None if stored is None else stored.grant

    def change_grant(self, login: str, connection: str = "crm", **fields: Any) -> None:
        """Write into the document from outside."""
        stored = asyncio.run(self.grants.read(grant_id("acme", self.subject(login), connection)))
        assert stored is not None
        assert asyncio.run(self.grants.replace(stored, stored.grant.model_copy(update=fields))) is not None

    def versions(self, login: str, connection: str = "crm") -> int:
        """How many payloads the grant's secret holds."""
        name = secret_id(grant_id("acme", self.subject(login), connection))
        return len(self.vault._secrets.get(name, []))

    def events(self, event_type: EventType) -> list[AuditEvent]:
        return [event for event in self.audit_log.events if event.event_type is event_type]

    def refusals(self) -> list[str | None]:
        return [event.reason_code for event in self.events(EventType.REQUEST_REFUSED)]

    def ask_approval(self, login: str = "alice", **changes: Any) -> ApprovalRequest:
        """A request for confirmation as exchange_token leaves it."""
        detail: dict[str, Any] = {
            "type": "cab_action",
            "actions": [changes.pop("action", "crm.opportunity.delete")],
            "locations": [CRM],
            "identifier": changes.pop("identifier", "opportunity/0061"),
            "parameters": changes.pop("parameters", {}),
            "task_id": "t-81",
        }
        now = self.clock.now()
        request = ApprovalRequest(
            id=changes.pop("id", "A" * 22),
            binding=Binding(
                tenant="acme",
                subject=self.subject(login),
                agent=changes.pop("agent", "sales-assistant"),
                intent_hash=details_hash([detail]),
                policy_version=self.deployment.policy_version,
                task_id="t-81",
            ),
            connection=changes.pop("connection", "crm"),
            detail=detail,
            reason=changes.pop("reason", "The customer asked for it."),
            prompts=changes.pop("prompts", ("Deletes an opportunity for good.",)),
            txn="txn-of-the-exchange",
            front_end="acme-web",
            requested_at=now,
            waits_until=now + timedelta(seconds=600),
            **changes,
        )
        asyncio.run(self.requests.open(request, instead_of=None))
        return request


@dataclass
class Browser:
    """A browser with somebody in front of it, one request at a time and no redirects followed."""

    http: requests.Session
    login: str

    def get(self, url: str, **arguments: Any) -> requests.Response:
        return self.http.get(absolute(url), allow_redirects=False, **arguments)

    def get_as_it_stands(self, url: str) -> requests.Response:
        """A GET of an odd address: the session would write it anew. What no URL can hold is escaped on the way all the same."""
        request = self.http.prepare_request(requests.Request("GET", absolute(url).partition("?")[0]))
        request.url = absolute(url)
        return self.http.send(request, allow_redirects=False)

    def post(self, url: str, form: Mapping[str, str], **arguments: Any) -> requests.Response:
        return self.http.post(absolute(url), data=dict(form), allow_redirects=False, **arguments)

    def log_in(self, path: str = "/me") -> Page:
        """Open a page of ours and log in on the way."""
        return Person(self.login, session=self.http).approval_page(absolute(path))

    def log_in_again(self) -> None:
        """A new login while the identity provider still knows who this is."""
        self.http.get(absolute("/login"))

    def csrf(self, url: str = "/me") -> str:
        return csrf_of(self.get(url).text)

    def start(self, connection: str = "crm") -> requests.Response:
        """Agree on our consent page; the answer leads to the provider."""
        return self.post("/connect", {"csrf": self.csrf(), "connection": connection, "decision": "connect"})

    def consent(self, authorize_url: str, account: str | None = None) -> str:
        """Agree at the provider; returns the callback's URL, not yet visited."""
        page = Person(self.login, session=self.http)
        shown: Page = page.open(authorize_url)
        form = shown.forms[0]
        fields = [*form.fields, ("account", account or self.login)]
        answer = self.http.post(form.action, data=dict(fields), allow_redirects=False)
        return answer.headers["location"]

    def connect(self, connection: str = "crm", account: str | None = None) -> requests.Response:
        """The whole way; the answer of the callback."""
        return self.get(self.consent(self.start(connection).headers["location"], account))


def absolute(url: str) -> str:
    return url if "://" in url else BROKER + url


def csrf_of(html: str) -> str:
    found = re.search(r'name="csrf" value="([A-Za-z0-9_-]{43})"', html)
    assert found is not None
    return found[1]


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def with_query(url: str, **changes: str | None) -> str:
    """The URL with parameters replaced, or removed when None."""
    query = {**query_of(url), **changes}
    return url.partition("?")[0] + "?" + urlencode({name: value for name, value in query.items() if value is not None})


def change_connection(deployment: Deployment, connection: str, **changes: Any) -> Deployment:
    """The deployment with the connection's provider changed."""
    provider = deployment.provider_by_id[deployment.connection_by_id[connection].provider]
    providers = {**deployment.provider_by_id, provider.id: provider.model_copy(update=changes)}
    return replace(deployment, provider_by_id=providers)
