"""The resource's side: a request gets in only when its token was made for exactly this.

`CabResource` goes in front of an ASGI or WSGI application. It verifies the token (docs/api.md: `typ`, ES256, the issuer's
keys, `iss`, `aud`, times, proof) and then, by the rule of the route, that action, identifier and each parameter of the intent
equal what the request says. A route without a rule lets nobody in, and what a rule does not name is refused.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol
from urllib.parse import parse_qsl, urlsplit

from cab_client.tools import template_names
from cab_client.values import Secret, digest

LEEWAY_S = 30
_KEYS_LIFE_S = 300
_REFETCH_PAUSE_S = 30  # a flood of unknown key ids must not become a flood of fetches
_MAX_DOCUMENT = 100 * 1024
_MAX_TOKEN = 16_384
_REQUIRED = ["iss", "aud", "exp", "iat", "sub", "client_id", "jti"]
_PROOF_OLDEST_S = 60
_PROOF_AHEAD_S = 5
METADATA_PATH = "/.well-known/oauth-protected-resource"
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

FetchJson = Callable[[str], Any]

log = logging.getLogger("cab_client.resource")


class TokenRejected(Exception):
    """The token proves nothing here: 401."""


class NotCovered(Exception):
    """The token is good, but not for this request: 403. The text says what was missing, without the request's values.

    `scope`: the scope that was missing, for a client to read (RFC 6750 section 3.1).
    """

    def __init__(self, missing: str, *, scope: str | None = None) -> None:
        super().__init__(missing)
        self.scope = scope


class IssuerUnavailable(Exception):
    """The issuer's documents cannot be read now; nobody can be let in or turned away for good: 503."""


# --- who is calling ---


@dataclass(frozen=True)
class Caller:
    """Who calls, for whom, for what. Holds the token's claims, not the token."""

    claims: Mapping[str, Any] = field(repr=False)

    @property
    def subject(self) -> str:
        """The user: the broker's opaque key, or the name that the connection maps it to."""
        return str(self.claims["sub"])

    @property
    def agent(self) -> str:
        return str(self.claims["client_id"])

    @property
    def chain(self) -> tuple[str, ...]:
        """The agents, the one that calls first."""
        chain, actor = [], self.claims.get("act")
        while isinstance(actor, dict) and "sub" in actor:
            chain.append(str(actor["sub"]))
            actor = actor.get("act")
        return tuple(chain)

    @property
    def scopes(self) -> frozenset[str]:
        scope = self.claims.get("scope")
        return frozenset(scope.split()) if isinstance(scope, str) else frozenset()

    @property
    def task_id(self) -> str | None:
        return self.claims.get("task_id")

    @property
    def txn(self) -> str | None:
        return self.claims.get("txn")

    @property
    def intent_hash(self) -> str | None:
        """Joins your log with the broker's. It is inside the signature: no need to compute it again."""
        return self.claims.get("intent_hash")

    @property
    def intents(self) -> list[Mapping[str, Any]]:
        """The well-formed entries of `authorization_details`."""
        details = self.claims.get("authorization_details")
        return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []

    def __repr__(self) -> str:
        return f"Caller(subject={self.subject!r}, agent={self.agent!r}, txn={self.txn!r})"


def metadata_url(issuer: str) -> str:
    """RFC 8414 section 3.1: the well-known part goes between host and path."""
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"


class IssuerKeys:
    """The issuer's current ES256 keys by `kid`, fetched when needed, kept for five minutes. Safe under threads."""

    def __init__(self, issuer: str, fetch: FetchJson, monotonic: Callable[[], float]) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._keys: dict[str, Any] = {}
        self._fetched_at: float | None = None

    def key(self, kid: str) -> Any:
        """Raises: TokenRejected where the issuer has no such key, IssuerUnavailable."""
        with self._lock:
            age = None if self._fetched_at is None else self._monotonic() - self._fetched_at
            if age is None or age > (_KEYS_LIFE_S if kid in self._keys else _REFETCH_PAUSE_S):
                self._refresh()
            if kid not in self._keys:
                raise TokenRejected
            return self._keys[kid]

    def _refresh(self) -> None:
        import jwt

        try:
            metadata = self._fetch(metadata_url(self._issuer))
            if metadata["issuer"] != self._issuer:
                raise IssuerUnavailable
            published = jwt.PyJWKSet.from_dict(self._fetch(metadata["jwks_uri"])).keys
        except (OSError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as exc:
            raise IssuerUnavailable from exc
        self._keys = {key.key_id: key for key in published if key.key_id and key.algorithm_name == "ES256"}
        self._fetched_at = self._monotonic()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def fetch_json(url: str) -> Any:
    """The JSON document at `url`: http or https, no redirects, at most 100 KiB, 5 s. Raises: OSError, ValueError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https")
    with urllib.request.build_opener(_NoRedirect).open(url, timeout=5) as response:
        raw = response.read(_MAX_DOCUMENT + 1)
    if len(raw) > _MAX_DOCUMENT:
        raise ValueError("the document is too large")
    return json.loads(raw)


class TokenVerifier:
    """Verifies what the broker `issuer` made for `resource`, RFC 9068 section 4, and proofs, RFC 9449 section 4.3.

    Blocks while keys are fetched; safe under threads. Proofs are remembered by this process alone.
    """

    def __init__(
        self,
        *,
        issuer: str,
        resource: str,
        fetch: FetchJson = fetch_json,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self.resource = resource
        self._keys = IssuerKeys(issuer, fetch, monotonic)
        self._now = now
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}

    def verify(self, token: str) -> Caller:
        """The caller, without a look at any proof: for tokens that are not bound. Raises: TokenRejected, IssuerUnavailable."""
        caller = self._verified(token)
        if "cnf" in caller.claims:
            raise TokenRejected
        return caller

    def verify_request(self, authorizations: Sequence[str], proofs: Sequence[str], *, method: str, url: str) -> Caller:
        """`authorizations` and `proofs`: all values of those headers. `url` without query. Raises as `verify`."""
        scheme, _, token = (authorizations[0] if len(authorizations) == 1 else "").partition(" ")
        caller = self._verified(token.strip())
        confirmation = caller.claims.get("cnf")
        if "cnf" not in caller.claims:
            if scheme.lower() != "bearer":
                raise TokenRejected
            return caller
        thumbprint = confirmation.get("jkt") if isinstance(confirmation, dict) else None
        if scheme.lower() != "dpop" or len(proofs) != 1 or not isinstance(thumbprint, str):
            raise TokenRejected
        self._verify_proof(proofs[0], method=method, url=url, token=token.strip(), thumbprint=thumbprint)
        return caller

    def _verified(self, token: str) -> Caller:
        import jwt

        try:
            if not 0 < len(token) <= _MAX_TOKEN:
                raise TokenRejected
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            if header.get("typ") != "at+jwt" or header.get("alg") != "ES256" or not isinstance(kid, str):
                raise TokenRejected
            claims: dict[str, Any] = jwt.decode(
                token,
                self._keys.key(kid),
                algorithms=["ES256"],
                audience=self.resource,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": _REQUIRED, "strict_aud": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise TokenRejected from exc
        return Caller(claims)

    def _verify_proof(self, proof: str, *, method: str, url: str, token: str, thumbprint: str) -> None:
        import jwt

        try:
            header = jwt.get_unverified_header(proof)
            jwk = header["jwk"]
            if header["typ"] != "dpop+jwt" or header["alg"] != "ES256" or _PRIVATE & jwk.keys():
                raise TokenRejected
            claims = jwt.decode(
                proof,
                jwt.PyJWK(jwk, algorithm="ES256"),
                algorithms=["ES256"],
                options={"require": ["jti", "iat"], "verify_iat": False, "verify_exp": False, "verify_nbf": False},
            )
            members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
            own = digest(json.dumps(members, separators=(",", ":"), sort_keys=True).encode())
            age = claims["iat"] - self._now()
            good = (
                own == thumbprint
                and claims.get("htm") == method
                and claims.get("htu") == url
                and claims.get("ath") == digest(token.encode())
                and type(claims["iat"]) is int
                and -_PROOF_OLDEST_S <= age <= _PROOF_AHEAD_S
            )
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError) as exc:
            raise TokenRejected from exc
        if not good or not self._is_first_use(f"{thumbprint}:{claims['jti']}"):
            raise TokenRejected

    def _is_first_use(self, use: str) -> bool:
        now = self._now()
        with self._lock:
            self._seen = {seen: until for seen, until in self._seen.items() if now < until}
            if use in self._seen:
                return False
            self._seen[use] = now + _PROOF_OLDEST_S + _PROOF_AHEAD_S + 1
            return True


# --- is this what was declared? ---


@dataclass(frozen=True)
class RequestView:
    """A request, as rules see it. `path` holds the values of the route's placeholders."""

    resource: str
    path: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    content_type: str
    raw_body: bytes = field(repr=False)

    def body(self) -> dict[str, Any]:
        """The JSON object of the body, `{}` where there is none. Raises: NotCovered."""
        if not self.raw_body:
            return {}
        if self.content_type.partition(";")[0].strip().lower() != "application/json":
            raise NotCovered("the body must be application/json")
        try:
            value = json.loads(self.raw_body.decode("utf-8"), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError):
            raise NotCovered("the body is no JSON object with each member once") from None
        if not isinstance(value, dict):
            raise NotCovered("the body is no JSON object with each member once")
        return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate member")
    return found


class Reporter(Protocol):
    """Who tells the broker what came of tokens: `cab_client.reports.OutcomeReporter`. Neither call raises."""

    def tell(self, token: Secret, caller: Caller, status: int | None) -> None: ...

    def flush(self, timeout_s: float = ...) -> bool: ...


Rule = Callable[[Caller, RequestView], None]
"""Raises NotCovered unless the caller's token was made for this request."""


@dataclass(frozen=True)
class covers:  # noqa: N801 - reads as a sentence: covers("crm.note.create", "opportunity/{id}", body=("text",))
    """The rule of most routes: one action, on what the path names, with the parameters that body and query carry.

    Every member of the body and every query parameter must be named, once, and equal the intent's parameter of that name in
    type and value; a parameter of the intent that the request does not carry must equal its entry in `defaults`.
    `identifier` is the catalog's template; its placeholders come from the path, or else from a named body member.
    `scope`, where given, must be among the token's.
    """

    action: str
    identifier: str
    body: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    scope: str | None = None

    def __post_init__(self) -> None:
        template_names(self.identifier)
        if isinstance(self.body, str) or isinstance(self.query, str):
            raise TypeError("body and query are tuples of names")

    def __call__(self, caller: Caller, request: RequestView) -> None:
        if self.scope is not None and self.scope not in caller.scopes:
            raise NotCovered(f"the scope {self.scope}", scope=self.scope)
        body = request.body()
        if extra := [name for name in body if name not in self.body]:
            raise NotCovered(f"members of the body beyond {', '.join(self.body) or 'none'}: {len(extra)}")
        query = dict(request.query)
        if len(query) != len(request.query) or any(name not in self.query for name in query):
            raise NotCovered(f"query parameters other than {', '.join(self.query) or 'none'}, each once")
        if both := body.keys() & query.keys():
            raise NotCovered(f"{', '.join(sorted(both))} in body and query")
        identifier = self._identifier(request.path, body)
        placed = set(template_names(self.identifier)) - request.path.keys()
        carried = {name: value for name, value in {**body, **query}.items() if name not in placed}
        wanted = {**self.defaults, **carried}
        problem = "an intent for this action here"
        for intent in caller.intents:
            if intent.get("type") != "cab_action" or intent.get("actions") != [self.action]:
                continue
            if intent.get("locations") != [request.resource]:
                continue
            if intent.get("identifier") != identifier:
                problem = "an intent for this identifier"
                continue
            declared = intent.get("parameters", {})
            if isinstance(declared, dict) and _same({**self.defaults, **declared}, wanted):
                return
            problem = "an intent with the parameters of this request"
        raise NotCovered(problem)

    def _identifier(self, path: Mapping[str, str], body: Mapping[str, Any]) -> str:
        def part(match: re.Match[str]) -> str:
            value = path[match[1]] if match[1] in path else body.get(match[1])
            if not isinstance(value, str) or not value or "/" in value or "*" in value:
                raise NotCovered("a single identifier")
            return value

        return re.sub(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", part, self.identifier)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal in names, types and values: 1 is neither True nor 1.0."""
    return one.keys() == other.keys() and all(
        type(one[name]) is type(other[name]) and one[name] == other[name] for name in one
    )


@dataclass(frozen=True)
class _Route:
    method: str
    pattern: re.Pattern[str]
    rule: Rule

    @classmethod
    def of(cls, where: str, rule: Rule) -> _Route:
        method, _, path = where.partition(" ")
        if not re.fullmatch(r"[A-Z]+", method) or not path.startswith("/"):
            raise ValueError(f"a route is a method and a path, such as 'GET /deals/{{id}}': {where}")
        template_names(path)
        parts = re.split(r"(\{\w+\})", path)
        pattern = "".join(
            f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else re.escape(part) for part in parts if part
        )
        return cls(method, re.compile(pattern), rule)


def checked_routes(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules as they are, by routes that are ones. Raises: ValueError."""
    return {where: _Route.of(where, rule).rule for where, rule in rules.items()}


@dataclass(frozen=True)
class Refusal:
    """An answer instead of the application's."""

    status: int
    error: str
    description: str
    retry_after: int | None = None
    scope: str | None = None


class Gate:
    """The judgement, whatever framework the request came by: who calls, and whether their token was made for this."""

    def __init__(
        self,
        *,
        issuer: str,
        resource: str,
        hosts: Iterable[str] = (),
        max_body: int = 1024 * 1024,
        fetch: FetchJson = fetch_json,
        reporter: Reporter | None = None,
    ) -> None:
        """`hosts`: other names than the resource's own that requests may carry in `Host`, for proxies that change it."""
        self.reporter = reporter
        self.resource = resource
        self.max_body = max_body
        self._issuer = issuer
        self._verifier = TokenVerifier(issuer=issuer, resource=resource, fetch=fetch)
        parts = urlsplit(resource)
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._hosts = {parts.netloc.lower(), *(host.lower() for host in hosts)}

    def judge(
        self,
        method: str,
        path: str,
        query: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | None,
        rule: Rule | None,
        placed: Mapping[str, str],
    ) -> Caller | Refusal:
        """`rule` and `placed`: what the route demands, and the values of its placeholders. `body` None: too large. Blocks."""

        def values(name: str) -> list[str]:
            return [value for one, value in headers if one.lower() == name]

        hosts = values("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return Refusal(421, "invalid_request", "This is another host.")
        try:
            caller = self._verifier.verify_request(
                values("authorization"), values("dpop"), method=method, url=f"{self._base}{path}"
            )
        except TokenRejected:
            return Refusal(401, "invalid_token", "The access token is not valid here.")
        except IssuerUnavailable:
            return Refusal(503, "temporarily_unavailable", "The token's issuer cannot be reached.", retry_after=5)
        if body is None:
            return Refusal(413, "invalid_request", "The body is too large.")
        types = values("content-type")
        if len(types) > 1 or values("content-encoding"):
            return Refusal(415, "invalid_request", "Send application/json, as it is.")
        if rule is None:
            self.tell(caller, headers, 403)
            return Refusal(403, "insufficient_authorization", "No token covers this method and path.")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=100)
            rule(caller, RequestView(self.resource, placed, pairs, types[0] if types else "", body))
        except NotCovered as exc:
            self.tell(caller, headers, 403)
            error = "insufficient_authorization" if exc.scope is None else "insufficient_scope"
            return Refusal(403, error, f"The token does not cover this: {exc}.", scope=exc.scope)
        except ValueError:
            return Refusal(400, "invalid_request", "The query is not well-formed.")
        return caller

    def tell(self, caller: Caller, headers: Iterable[tuple[str, str]], status: int | None) -> None:
        """What was answered to a request of theirs, which had these headers: to your log and, by the reporter, to the broker.

        The log's line joins the broker's record by `txn`, `jti` and `intent_hash`. `status` None: there was no answer.
        """
        about = {"txn": caller.txn, "jti": caller.claims.get("jti"), "intent_hash": caller.intent_hash}
        log.info(
            "failed" if status is None or status >= 500 else "executed" if status < 400 else "rejected",
            extra={"cab": about | {"agent": caller.agent, "status": status}},
        )
        if self.reporter is not None:
            (authorization,) = (value for name, value in headers if name.lower() == "authorization")
            self.reporter.tell(Secret(authorization.partition(" ")[2].strip()), caller, status)

    def metadata(self) -> dict[str, Any]:
        """RFC 9728, for `GET /.well-known/oauth-protected-resource`."""
        return {
            "resource": self.resource,
            "authorization_servers": [self._issuer],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": ["ES256"],
        }

    def headers_of(self, refusal: Refusal) -> dict[str, str]:
        headers = {"Cache-Control": "no-store"}
        if refusal.status in (401, 403):
            about = f'error="{refusal.error}", resource_metadata="{self._base}{METADATA_PATH}"'
            about += f', scope="{refusal.scope}"' if refusal.scope else ""
            headers["WWW-Authenticate"] = f'Bearer {about}, DPoP {about}, algs="ES256"'
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(refusal.retry_after)
        return headers


class CabResource:
    """Middleware for ASGI and WSGI: `app = CabResource(app, issuer=..., resource=..., rules={...})`.

    `rules`: by route, such as `"PATCH /opportunities/{id}"`, what its token must have been made for. `public`: routes that need
    no token, such as `"GET /health"`.
    `hosts` as of `Gate`. `reporter` tells the broker what came of every token.
    The application finds the `Caller` in `scope["cab"]` or `environ["cab"]`.
    """

    def __init__(
        self,
        app: Any,
        *,
        issuer: str,
        resource: str,
        rules: Mapping[str, Rule],
        public: Iterable[str] = (),
        hosts: Iterable[str] = (),
        max_body: int = 1024 * 1024,
        fetch: FetchJson = fetch_json,
        reporter: Reporter | None = None,
    ) -> None:
        self._app = app
        self._gate = Gate(
            issuer=issuer, resource=resource, hosts=hosts, max_body=max_body, fetch=fetch, reporter=reporter
        )
        self._routes = [_Route.of(where, rule) for where, rule in rules.items()]
        self._public = [_Route.of(where, _nobody) for where in public]

    # --- ASGI and WSGI ---

    def __call__(self, first: Any, second: Any, third: Any = None) -> Any:
        """`(scope, receive, send)` or `(environ, start_response)`."""
        if third is None:
            return self._wsgi(first, second)
        return self._asgi(first, second, third)

    async def _asgi(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _flushing(send, self._gate.reporter))
            return
        if scope["type"] != "http":  # no rule can cover what is said on an open channel
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        method, path = scope["method"], scope["path"]
        if self._is_open(method, path):
            await self._app(scope, receive, send)
            return
        document = self._metadata(method, path)
        if document is not None:
            await _asgi_answer(send, 200, [("content-type", "application/json")], document)
            return
        body = await _asgi_body(receive, self._gate.max_body)
        query = scope["query_string"].decode("latin-1")
        outcome = await asyncio.to_thread(self._judge, method, path, query, headers, body)
        if isinstance(outcome, Refusal):
            await _asgi_answer(send, outcome.status, *self._refusal(outcome))
            return

        async def replay() -> dict[str, Any]:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        def told(status: int | None) -> None:
            self._gate.tell(outcome, headers, status)

        await telling(self._app, {**scope, "cab": outcome}, replay, send, told)

    def _wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = (
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"),
        )
        if self._is_open(method, path):
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer
        document = self._metadata(method, path)
        if document is not None:
            start_response("200 OK", [("content-type", "application/json")])
            return [document]
        headers = [
            (name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name.startswith("HTTP_")
        ]
        headers.append(("content-type", environ.get("CONTENT_TYPE") or ""))
        length = environ.get("CONTENT_LENGTH") or "0"
        size = int(length) if length.isdigit() else self._gate.max_body + 1
        body = environ["wsgi.input"].read(size) if size <= self._gate.max_body else None
        outcome = self._judge(method, path, environ.get("QUERY_STRING", ""), headers, body)
        if isinstance(outcome, Refusal):
            lines, document = self._refusal(outcome)
            start_response(f"{outcome.status} Refused", lines)
            return [document]

        status: list[int] = []

        def watched(line: str, *more: Any) -> Any:
            status[:] = [int(line.split(" ", 1)[0])]
            return start_response(line, *more)

        def told() -> None:
            self._gate.tell(outcome, headers, status[0] if status else None)

        try:
            inner = self._app({**environ, "cab": outcome, "wsgi.input": io.BytesIO(body or b"")}, watched)
        except BaseException:
            told()
            raise
        return _ToldAtEnd(inner, told)

    # --- the judgement ---

    def _is_open(self, method: str, path: str) -> bool:
        return any(route.method == method and route.pattern.fullmatch(path) for route in self._public)

    def _judge(
        self, method: str, path: str, query: str, headers: Sequence[tuple[str, str]], body: bytes | None
    ) -> Caller | Refusal:
        for route in self._routes:
            match = route.pattern.fullmatch(path) if route.method == method else None
            if match is not None:
                return self._gate.judge(method, path, query, headers, body, route.rule, match.groupdict())
        return self._gate.judge(method, path, query, headers, body, None, {})

    def _metadata(self, method: str, path: str) -> bytes | None:
        is_asked = method == "GET" and path == METADATA_PATH
        return json.dumps(self._gate.metadata()).encode() if is_asked else None

    def _refusal(self, refusal: Refusal) -> tuple[list[tuple[str, str]], bytes]:
        headers = [(name.lower(), value) for name, value in self._gate.headers_of(refusal).items()]
        body = {"error": refusal.error, "error_description": refusal.description}
        return [("content-type", "application/json"), *headers], json.dumps(body).encode()


async def telling(app: Any, scope: Any, receive: Any, send: Any, told: Callable[[int | None], None]) -> None:
    """Run an ASGI application, and say at the end with which status it answered, None where it did not."""
    status: list[int] = []

    async def watched(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])
        await send(message)

    try:
        await app(scope, receive, watched)
    finally:
        told(status[0] if status else None)


def _flushing(send: Any, reporter: Reporter | None) -> Callable[[Any], Awaitable[None]]:
    """Before the server may stop the process, what waits is reported. A server that ends by a signal runs no exit handlers."""

    async def last(message: Any) -> None:
        if message["type"].startswith("lifespan.shutdown.") and reporter is not None:
            await asyncio.to_thread(reporter.flush)
        await send(message)

    return last


CAME_IN = "cab_came_in"  # in the scope under `Telling`: a list of who came in with which headers


class Telling:
    """ASGI middleware for frameworks whose routes ask the gate themselves: tells what was answered to whom they let in."""

    def __init__(self, app: Any, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _flushing(send, self._gate.reporter))
            return
        came_in: list[tuple[Caller, list[tuple[str, str]]]] = []

        def told(status: int | None) -> None:
            for caller, headers in came_in:
                self._gate.tell(caller, headers, status)

        await telling(self._app, {**scope, CAME_IN: came_in}, receive, send, told)


class _ToldAtEnd:
    """A WSGI answer, with something to do when the server closes it: only then is it known what was answered (PEP 3333)."""

    def __init__(self, inner: Iterable[bytes], told: Callable[[], None]) -> None:
        self._inner = inner
        self._told = told

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._inner)

    def close(self) -> None:
        try:
            getattr(self._inner, "close", lambda: None)()
        finally:
            self._told()


def _nobody(_: Caller, __: RequestView) -> NoReturn:
    raise NotCovered("a rule")


async def _asgi_body(receive: Callable[[], Awaitable[dict[str, Any]]], most: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def _asgi_answer(
    send: Callable[[dict[str, Any]], Awaitable[None]], status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    lines = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
