"""The pages people see: connect an account, decide on an action, see and end what agents may do. Plain HTML, no script.

Rules are in the use cases; here is which address leads to which of them, and which page or redirect answers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cab.domain import audit
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, invalid_parameter
from cab.domain.grants import SERVABLE, GrantStatus
from cab.domain.groups import GroupsUnknown
from cab.encoding.canonical_json import canonical
from cab.ports import (
    AuditLog,
    Clock,
    GrantTokens,
    HttpClient,
    Randomness,
    SecretReader,
    VerificationKeys,
)
from cab.protocol.forms import required
from cab.protocol.oauth_errors import error_body, error_headers, status_of
from cab.stores.approvals import ApprovalDecisions, ApprovalRequests
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import Grants
from cab.stores.issued_tokens import IssuedTokens
from cab.stores.sessions import BrowserStates, Session
from cab.transport.browser_requests import Cookies, Visit, login_needed, read_own_form, read_query, with_way_on
from cab.transport.grant_health import health_of
from cab.transport.page_problems import NOT_TO_BE_REPEATED, words_for
from cab.transport.page_rendering import PageRenderer
from cab.transport.requests import context_of, health
from cab.use_cases.audit.auditor import Auditor, Facts
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.people.account import MyAccount
from cab.use_cases.people.approvals import ApprovalView, DecideConfirmation, Stored
from cab.use_cases.people.connect import AnotherAccount, ConnectAccount, Visitor
from cab.use_cases.people.login import (
    CALLBACK_PATH,
    HOME,
    STATE_LIFE,
    FinishedBefore,
    LoginDemand,
    LoginFlow,
    return_path,
)
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.values import immutable

SHOWN_AT_ONCE: Final = 5  # open questions of one agent; the rest folds away
_CONNECTION_ID: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")


# What each page reads of its address; the rest was written by others, and is nobody's business here.
_NOTHING: Final = frozenset[str]()
_CONNECT: Final = frozenset({"connection"})
_CALLBACK: Final = frozenset({"code", "state", "error", "iss"})
_LOGIN: Final = frozenset({"to", "idp"})
# Of an authorization request (RFC 6749 section 4.1.1, RFC 7636, RFC 9101, RFC 9126): nobody who means our page sends one.
_OF_A_CODE_GRANT: Final = frozenset(
    {"response_type", "client_id", "redirect_uri", "code_challenge", "request", "request_uri"}
)

Handler = Callable[[Visit], Awaitable[Response]]


@immutable
class PageRoute:
    path: re.Pattern[str]
    reads: frozenset[str]
    handlers: Mapping[str, Handler]

    @property
    def shows_approval(self) -> bool:
        return self.path.pattern.startswith("/approvals/")


class Pages:
    """The handler of connect_account. Holds no state of a request."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        login: LoginFlow,
        connect: ConnectAccount,
        confirmations: DecideConfirmation,
        my_account: MyAccount,
        auditor: Auditor,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._login = login
        self._connect = connect
        self._confirmations = confirmations
        self._my_account = my_account
        self._auditor = auditor
        self._randomness = randomness
        self._origin = deployment.broker.origin
        https = self._origin.startswith("https://")
        self._renderer = PageRenderer(clock, https=https)
        self._tenant_titles = {tenant.id: tenant.title for tenant in deployment.broker.tenants}
        self._cookies = Cookies(https=https)
        self._routes = tuple(
            PageRoute(re.compile(path), reads, handlers)
            for path, reads, handlers in (
                (r"/connect", _CONNECT, {"GET": self._show_consent, "POST": self._start_connecting}),
                (r"/connect/callback/([^/]+)", _CALLBACK, {"GET": self._finish_connecting}),
                (r"/connect/account", _NOTHING, {"POST": self._answer_account}),
                (r"/connect/done/([^/]+)", _NOTHING, {"GET": self._show_connected}),
                (r"/approvals/([^/]+)", _NOTHING, {"GET": self._show_approval, "POST": self._decide}),
                (r"/me", _NOTHING, {"GET": self._show_account}),
                (r"/me/disconnect", _NOTHING, {"POST": self._disconnect}),
                (r"/login", _LOGIN, {"GET": self._begin_login}),
                (re.escape(CALLBACK_PATH) + "(?:/[^/]+)?", _CALLBACK, {"GET": self._finish_login}),
                (r"/logout", _NOTHING, {"GET": self._show_logout, "POST": self._end_session}),
            )
        )

    async def handle(self, request: Request) -> Response:
        """The answer to any request, with an audit event when it was refused."""
        path = request.url.path
        if path == "/health":
            return health()
        context = context_of(request, self._randomness)
        route, name = self._find(path)
        handler = None if route is None else route.handlers.get(request.method)
        if route is None or handler is None:
            reason = Reason.NOT_FOUND if route is None else Reason.METHOD_NOT_ALLOWED
            answer = self._problem(request, BrokerError(reason), txn=context.txn, session=None)
            if route is not None:
                answer.headers["Allow"] = ", ".join(route.handlers)
            return answer
        seen: list[Visit] = []

        async def work(facts: Facts) -> Response:
            visit = Visit(request, context, facts, name)
            seen.append(visit)
            visit.query, visit.names = read_query(request, route.reads)
            if not route.shows_approval:
                await self._recognise(visit)
                return await handler(visit)
            # Who asks and what for are read beside each other; the handler says whether the one may see the other.
            looking_up = asyncio.create_task(self._look_up(visit))
            try:
                await self._recognise(visit)
                visit.approval = looking_up
                return await handler(visit)
            finally:
                looking_up.cancel()
                await asyncio.gather(looking_up, return_exceptions=True)

        # Silent when it succeeds: what changes something publishes its own event, before it answers.
        answered = await self._auditor.run(audit.EventType.REQUEST_REFUSED, context, work, silent=True)
        if answered.answer is not None:
            return answered.answer
        refusal = answered.refusal or BrokerError(Reason.INTERNAL_ERROR)
        if refusal.remedy.interaction_uri is None and path.startswith(("/connect/callback/", "/connect/done/")):
            refusal = with_way_on(refusal, self._connect_uri(name))
        return self._problem(request, refusal, txn=context.txn, session=seen[0].session)

    def _find(self, path: str) -> tuple[PageRoute | None, str]:
        """The route of a path, and the path's last part. None for an unknown path."""
        for route in self._routes:
            match = route.path.fullmatch(path)
            if match is not None:
                return route, match[1] if match.groups() else ""
        return None, ""

    def _connect_uri(self, connection_id: str) -> str:
        known = connection_id in self._deployment.connection_by_id
        return f"{self._origin}/connect?connection={connection_id}" if known else self._origin + HOME

    async def _look_up(self, visit: Visit) -> Stored:
        if Cookies.read(visit.request, self._cookies.session) is None:
            return Stored(None, None)  # a stranger, who is sent to log in first
        return await self._confirmations.look_up(visit.name)

    async def _recognise(self, visit: Visit) -> None:
        cookie = Cookies.read(visit.request, self._cookies.session)
        session = await self._login.session(cookie)
        if session is None or session.idp_issuer not in self._deployment.identity_provider_by_issuer:
            return  # logged out, or logged in at a provider that the configuration no longer names
        visit.session, visit.cookie = session, cookie
        visit.facts.client_authenticated = True
        visit.facts.tenant = session.tenant
        visit.facts.subject = audit.Subject(
            key=session.subject,
            idp_issuer=session.idp_issuer,
            groups=list(session.groups),
            groups_unknown=session.groups_unknown,
        )

    # --- login ---

    async def _begin_login(self, visit: Visit) -> Response:
        return_to = return_path(visit.query.get("to"))
        chosen = visit.query.get("idp")
        providers = self._deployment.identity_providers
        if chosen is None:
            return await self._to_login(visit, return_to, self._demand_for(return_to))
        if not (chosen.isascii() and chosen.isdigit() and len(chosen) < 4 and int(chosen) < len(providers)):
            raise invalid_parameter("idp")
        return await self._to_idp(visit, providers[int(chosen)].issuer, return_to, self._demand_for(return_to))

    def _demand_for(self, return_to: str) -> LoginDemand:
        """Approvals want a fresh login: asking for it at once saves the second trip."""
        return self._confirmations.freshness() if return_to.startswith("/approvals/") else LoginDemand()

    async def _to_login(self, visit: Visit, return_to: str, demand: LoginDemand) -> Response:
        """To the identity provider: the one of the session, or the only one, or the one the person picks."""
        if visit.session is not None:
            return await self._to_idp(visit, visit.session.idp_issuer, return_to, demand)
        providers = self._deployment.identity_providers
        if len(providers) == 1:
            return await self._to_idp(visit, providers[0].issuer, return_to, demand)
        choices = [
            (
                provider.title or self._tenant_titles.get(provider.tenant, provider.tenant),
                provider.issuer,
                f"/login?{urlencode({'idp': index, 'to': return_to})}",
            )
            for index, provider in enumerate(providers)
        ]
        return self._page(visit, "login_choice.html", choices=choices)

    async def _to_idp(self, visit: Visit, issuer: str, return_to: str, demand: LoginDemand) -> Response:
        cookie, browser = self._cookies.binding(visit.request, self._randomness)
        url = await self._login.begin(issuer, browser=browser, return_to=return_to, demand=demand)
        answer = self._redirect(visit, url)
        self._cookies.put(answer, cookie, browser, max_age_s=int(STATE_LIFE.total_seconds()))
        return answer

    async def _finish_login(self, visit: Visit) -> Response:
        done = await self._login.finish(
            visit.query,
            arrived_at=visit.request.url.path,
            browsers=self._cookies.bindings(visit.request).values(),
            before=visit.session,
            cookie_before=visit.cookie,
            facts=visit.facts,
        )
        if isinstance(done, FinishedBefore):
            if visit.session is not None:
                return self._redirect(visit, done.return_to)
            # The first answer never reached this browser, or its session is over: the identity provider still knows who it is.
            return await self._to_idp(visit, done.idp_issuer, done.return_to, self._demand_for(done.return_to))
        answer = self._redirect(visit, done.return_to)
        self._cookies.put(
            answer, self._cookies.session, done.cookie, max_age_s=self._deployment.broker.lifetimes.session_s
        )
        return answer

    async def _show_logout(self, visit: Visit) -> Response:
        return self._page(visit, "logout.html")

    async def _end_session(self, visit: Visit) -> Response:
        if visit.session is not None:  # else there is nothing to protect: it was sent twice, or in another tab
            await self._read_form(visit, way_on="/logout")
            await self._login.end(visit.cookie or "")
            visit.session = visit.cookie = None
        answer = self._page(visit, "logout.html")
        self._cookies.drop(answer, self._cookies.session)
        return answer

    # --- connecting ---

    async def _show_consent(self, visit: Visit) -> Response:
        if visit.names & _OF_A_CODE_GRANT:
            raise BrokerError(
                Reason.NO_AUTHORIZATION_CODE_GRANT,
                "There is no authorization code grant here: exchange an assertion at the token endpoint.",
            )
        wanted = _connection_id(required(dict(visit.query), "connection"))
        if visit.visitor is None:
            return await self._to_login(visit, f"/connect?connection={wanted}", LoginDemand())
        consent = await self._connect.consent(visit.visitor, wanted)
        status = consent.grant.status if consent.grant else None
        return self._page(
            visit,
            "connect.html",
            form_targets=_redirect_targets(consent.provider.authorization_endpoint),
            consent=consent,
            scopes=(*consent.provider.base_scopes, *consent.connection.consent_scopes),
            live=status in SERVABLE,
            broken=status in (GrantStatus.NEEDS_REAUTH, GrantStatus.QUARANTINED),
        )

    async def _start_connecting(self, visit: Visit) -> Response:
        form = await self._read_form(visit, way_on=HOME)
        wanted = _connection_id(required(form, "connection"))
        if required(form, "decision") != "connect" or visit.visitor is None:
            return self._redirect(visit, HOME)
        return self._redirect(visit, await self._connect.start(visit.visitor, wanted, visit.facts))

    async def _finish_connecting(self, visit: Visit) -> Response:
        connection_id = _connection_id(visit.name)
        outcome = await self._connect.finish(visit.visitor, connection_id, visit.query, visit.facts)
        if isinstance(outcome, AnotherAccount):
            provider = self._deployment.provider_of(outcome.connection)
            targets = _redirect_targets(provider.authorization_endpoint)
            return self._page(visit, "another_account.html", form_targets=targets, asked=outcome)
        # Away from the callback's address, which holds a spent code and state.
        again = "?again" if outcome.before else ""
        return self._redirect(visit, f"/connect/done/{outcome.connection.id}{again}")

    async def _answer_account(self, visit: Visit) -> Response:
        form = await self._read_form(visit, way_on=HOME)
        question, decision = required(form, "question"), required(form, "decision")
        visitor = self._needed(visit)
        if decision == "replace":
            return self._redirect(visit, await self._connect.replace_account(visitor, question, visit.facts))
        await self._connect.keep_account(visitor, question)
        return self._redirect(visit, HOME)

    async def _show_connected(self, visit: Visit) -> Response:
        if visit.visitor is None:
            return await self._to_login(visit, HOME, LoginDemand())
        result = await self._connect.result(visit.visitor, _connection_id(visit.name))
        return self._page(visit, "connected.html", result=result, again="again" in visit.names)

    # --- approvals ---

    async def _show_approval(self, visit: Visit) -> Response:
        path = _approval_path(visit.name)
        if visit.session is None:
            return await self._to_login(visit, path, self._confirmations.freshness())
        view = await self._confirmations.view(visit.session, await _approval_of(visit))
        if isinstance(view, LoginDemand):
            return await self._to_login(visit, path, view)
        return self._approval(visit, view)

    async def _decide(self, visit: Visit) -> Response:
        path = _approval_path(visit.name)
        form = await self._read_form(visit, way_on=path)
        decision = required(form, "decision")
        if decision not in ("approve", "refuse"):
            raise invalid_parameter("decision")
        view = await self._confirmations.decide(
            self._needed(visit).session,
            await _approval_of(visit),
            approved=decision == "approve",
            account=form.get("account"),
            facts=visit.facts,
        )
        if isinstance(view, LoginDemand):
            raise login_needed(self._origin + path)
        return self._approval(visit, view)

    def _approval(self, visit: Visit, view: ApprovalView) -> Response:
        declared = canonical(view.request.detail).decode()
        return self._page(visit, "approval.html", view=view, canonical=declared)

    # --- my account ---

    async def _show_account(self, visit: Visit) -> Response:
        if visit.session is None:
            return await self._to_login(visit, HOME, LoginDemand())
        account = await self._my_account.view(visit.session)
        unknown = visit.session.groups_unknown
        return self._page(
            visit,
            "me.html",
            account=account,
            health_of=health_of,
            shown_at_once=SHOWN_AT_ONCE,
            groups_unknown=None if unknown is None else GroupsUnknown(unknown),
        )

    async def _disconnect(self, visit: Visit) -> Response:
        form = await self._read_form(visit, way_on=HOME)
        wanted = _connection_id(required(form, "connection"))
        confirmed = await self._my_account.disconnect(
            self._needed(visit).session, wanted, txn=visit.context.txn, facts=visit.facts
        )
        title = self._deployment.connection_by_id[wanted].title
        return self._page(visit, "disconnected.html", title=title, confirmed=confirmed)

    # --- who asks ---

    async def _read_form(self, visit: Visit, *, way_on: str) -> dict[str, str]:
        return await read_own_form(visit, origin=self._origin, way_on=way_on)

    def _needed(self, visit: Visit) -> Visitor:
        """The visitor of a form that was accepted, who is therefore logged in."""
        if visit.visitor is None:
            raise login_needed(self._origin + HOME)
        return visit.visitor

    # --- answers ---

    def _page(self, visit: Visit, template: str, *, form_targets: tuple[str, ...] = (), **values: Any) -> Response:
        return self._renderer.page(
            template, txn=visit.context.txn, form_targets=form_targets, **self._person(visit.session), **values
        )

    def _person(self, session: Session | None) -> dict[str, Any]:
        title = "" if session is None else self._tenant_titles.get(session.tenant, session.tenant)
        return {"session": session, "tenant_title": title}

    def _redirect(self, visit: Visit, url: str) -> Response:
        return RedirectResponse(url, status_code=303, headers=self._renderer.headers(visit.context.txn))

    def _problem(self, request: Request, refusal: BrokerError, *, txn: str, session: Session | None) -> Response:
        headers = error_headers(refusal)
        accept = request.headers.get("accept", "")
        if "application/json" in accept and "text/html" not in accept:  # a program that came to the wrong door
            headers |= {"Cache-Control": "no-store", "CAB-Txn": txn}
            body = orjson.dumps(error_body(refusal, txn=txn))
            return Response(body, status_code=status_of(refusal.reason), media_type="application/json", headers=headers)
        title, sentence = words_for(refusal)
        ways = [("My connections and requests", HOME)]
        if refusal.remedy.interaction_uri is not None and refusal.reason not in NOT_TO_BE_REPEATED:
            parts = urlsplit(refusal.remedy.interaction_uri)
            again = parts.path + (f"?{parts.query}" if parts.query else "")
            ways = [("Try again", again), *(ways if again != HOME else [])]
        answer = self._renderer.page(
            "problem.html",
            txn=txn,
            status=status_of(refusal.reason),
            title=title,
            sentence=sentence,
            ways=ways,
            **self._person(session),
        )
        answer.headers.update(headers)
        return answer


async def _approval_of(visit: Visit) -> Stored:
    """Raises: Unavailable."""
    return Stored(None, None) if visit.approval is None else await visit.approval


def _connection_id(text: str) -> str:
    if not _CONNECTION_ID.fullmatch(text):
        raise BrokerError(Reason.NOT_FOUND, "There is no such connection.")
    return text


def _approval_path(name: str) -> str:
    path = f"/approvals/{name}"
    if return_path(path) != path:
        raise BrokerError(Reason.NOT_FOUND, "There is no such request.")
    return path


def _redirect_targets(authorization_endpoint: str | None) -> tuple[str, ...]:
    """Where the form of a consent may lead. Chrome holds every redirect after a form against `form-action`, and providers send
    people on to login hosts of their own that no profile can list: any https host therefore, from these two pages only. They
    show no text of an agent, and their forms go to us."""
    parts = urlsplit(authorization_endpoint or "")
    return ("https:",) if parts.scheme == "https" else (f"{parts.scheme}://{parts.netloc}",)


def pages_app(
    deployment: Deployment,
    *,
    states: BrowserStates,
    grants: Grants,
    payloads: GrantPayloads,
    provider_calls: ProviderCalls,
    idp_http: HttpClient,
    keys: VerificationKeys,
    client_secrets: SecretReader,
    approval_requests: ApprovalRequests,
    approval_decisions: ApprovalDecisions,
    issued_tokens: IssuedTokens,
    grant_tokens: GrantTokens,
    still_here: StillHere,
    audit_log: AuditLog,
    auditor: Auditor,
    clock: Clock,
    randomness: Randomness,
) -> Callable[[Request], Awaitable[Response]]:
    """The handler of connect_account.

    `states` must be over the `approvals` database, which only this function writes; `payloads` is used to create and add;
    `idp_http` reaches the identity providers' origins.
    """
    login = LoginFlow(
        deployment,
        states=states,
        http=idp_http,
        keys=keys,
        client_secrets=client_secrets,
        still_here=still_here,
        clock=clock,
        randomness=randomness,
    )
    connect = ConnectAccount(
        deployment,
        states=states,
        store=grants,
        payloads=payloads,
        calls=provider_calls,
        outbox=Outbox(deployment, grants, audit_log, clock),
        clock=clock,
        randomness=randomness,
    )
    confirmations = DecideConfirmation(
        deployment,
        requests=approval_requests,
        decisions=approval_decisions,
        grants=grants,
        audit_log=audit_log,
        clock=clock,
    )
    my_account = MyAccount(
        deployment,
        store=grants,
        requests=approval_requests,
        decisions=approval_decisions,
        issued_tokens=issued_tokens,
        grant_tokens=grant_tokens,
        clock=clock,
    )
    return Pages(
        deployment,
        login=login,
        connect=connect,
        confirmations=confirmations,
        my_account=my_account,
        auditor=auditor,
        clock=clock,
        randomness=randomness,
    ).handle
