"""For tests of agents, front ends and resources: a broker in this process, and the real one of `cab dev up`.

Both offer the same handful of methods, and one suite of ours holds them to the same answers. `pytest` finds the fixtures
`cab_fake` and `cab_stack` by itself where `cab-client` is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import parse_qsl

import httpx2

from cab_client.broker import DEFERRED, EXCHANGE
from cab_client.clients import Agent, AsyncAgent, FrontEnd
from cab_client.credentials import PrivateKeyJwt
from cab_client.current import acting_for
from cab_client.reports import OutcomeReporter
from cab_client.transport import use_transport
from cab_client.values import Assertion, Connection, Intent, Secret, Task, digest

A = TypeVar("A", Agent, AsyncAgent)

EVERYTHING = Task.for_turn("everything", actions=["*"], identifiers=["*"])
_LIFE_S = 300
_METADATA, _KEYS = "/.well-known/oauth-authorization-server/oauth2", "/oauth2/jwks.json"
_PATHS = ("/edge/token", "/oauth2/token", "/oauth2/outcomes", _METADATA, _KEYS)


class World(Protocol):
    """What tests need of a broker, in process or running."""

    origin: str

    def id_token(self, user: str) -> str: ...
    def front_end(self) -> FrontEnd: ...
    def reporter(self, client_id: str, **options: Any) -> OutcomeReporter: ...
    def agent(self, client_id: str, **options: Any) -> Agent: ...
    def async_agent(self, client_id: str, **options: Any) -> AsyncAgent: ...
    def approve(self, uri: str, *, user: str, refuse: bool = False) -> None: ...


def new_key() -> dict[str, Any]:
    """A private P-256 key as a JWK."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec

    jwk: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    return {**jwk, "kid": secrets.token_urlsafe(6), "alg": "ES256"}


# --- in process ---


@dataclass(frozen=True)
class Exchange:
    """One exchange that the fake decided: `reason` is None where it permitted.

    `rejected`: it was asked for since the system had refused a token that the fake gave.
    """

    agent: str
    user: str
    intent: Intent
    reason: str | None
    rejected: bool = False


@dataclass
class _Question:
    intent: dict[str, Any]
    state: str = "open"  # then approved, refused
    codes: list[str] = field(default_factory=list)


class _No(Exception):
    def __init__(self, status: int, error: str, reason: str, **more: Any) -> None:
        super().__init__(reason)
        self.status, self.body = status, {"error": error, "reason_code": reason, **more}


_ERRORS = {
    "policy_denied": "invalid_authorization_details",
    "intent_outside_task": "invalid_authorization_details",
    "action_not_allowed_for_agent": "invalid_authorization_details",
    "task_exhausted": "invalid_authorization_details",
    "grant_missing": "interaction_required",
    "grant_needs_reauth": "interaction_required",
    "grant_revoked": "interaction_required",
    "step_up_required": "insufficient_user_authentication",
    "rate_limited": "temporarily_unavailable",
    "store_unavailable": "temporarily_unavailable",
    "provider_unavailable": "temporarily_unavailable",
}


class FakeBroker(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """A broker in memory, and the systems behind it. Permits nothing until told: `fake.permit("crm.note.create")`.

    It keeps what the client must get right: assertions for one agent, single-use client assertions, tasks, questions whose
    yes is good once, deferrals, call tokens. It verifies no client's key and knows no policies, limits or grants.
    """

    def __init__(
        self, origin: str = "https://cab.fake", connections: Mapping[str, str | Connection] | None = None
    ) -> None:
        self.origin = self.origin_seen = origin
        self._any_system = connections is None  # agents under test name the systems they were made for
        self.connections: dict[str, Connection] = {
            name: address if isinstance(address, Connection) else Connection(address)
            for name, address in (connections or {"crm": "https://crm.fake", "tracker": "https://tracker.fake"}).items()
        }
        self.exchanges: list[Exchange] = []
        self.requests: list[httpx2.Request] = []
        self.outcomes: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.down = 0  # so many requests are answered 503
        self._rules: dict[str, tuple[str, str]] = {}
        self._questions: dict[str, _Question] = {}
        self._assertions: dict[str, dict[str, Any]] = {}
        self._tokens: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._resources_of: dict[str, set[str]] = {}
        self._said: dict[str, tuple[str, int | None]] = {}
        self._id_tokens: dict[str, str] = {}
        self._used: set[str] = set()
        self._uses: dict[str, int] = {}
        self._jwk = new_key()

    # --- what tests say ---

    def permit(self, *actions: str, effect: str = "write") -> None:
        for action in actions:
            self._rules[action] = ("permit", effect)

    def ask(self, *actions: str) -> None:
        """The user has to confirm these."""
        for action in actions:
            self._rules[action] = ("ask", "write")

    def report_as(self, client_id: str, *resources: str) -> None:
        """The client may report what came of the tokens for these resources, as their server."""
        self._resources_of.setdefault(client_id, set()).update(resources)

    def refuse(self, *actions: str, reason: str = "policy_denied") -> None:
        """Any `reason_code` of docs/api.md that an exchange may meet, such as `grant_missing` or `step_up_required`."""
        if reason not in _ERRORS:
            raise ValueError(f"choose from: {', '.join(_ERRORS)}")
        for action in actions:
            self._rules[action] = (reason, "write")

    def answer(self, method: str, url: str, body: Any = None, *, status: int = 200) -> None:
        """What the system at `url` answers. Everything else there is 200 and `{}`."""
        self.answers[(method, url)] = (status, body)

    def user(self, name: str, *, agent: str = "*", task: Task | None = EVERYTHING) -> Assertion:
        """An assertion for `name`, for any agent, with a task that covers everything."""
        return self._assertion(name, agent, None if task is None else task.to_dict(), ())

    def end_tokens(self) -> None:
        """The systems refuse every token that they were shown until now."""
        self._ended |= self._tokens.keys()

    def approve(self, uri: str, *, user: str, refuse: bool = False) -> None:
        """What `user` decides on the page at `uri`. Raises: LookupError where it is not their question, or decided."""
        for key, question in self._questions.items():
            if self._uri(key) == uri and json.loads(key)[0] == user and question.state == "open":
                question.state = "refused" if refuse else "approved"
                return
        raise LookupError("there is no such open question of this user")

    # --- clients ---

    def id_token(self, user: str) -> str:
        token = f"id.{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(8)}"
        self._id_tokens[token] = user
        return token

    def end_login(self, id_token: str) -> None:
        """Let the ID token have ended."""
        self._id_tokens[id_token] = ""

    def front_end(self) -> FrontEnd:
        return FrontEnd(self.origin, PrivateKeyJwt("front-end", key=new_key()))

    def reporter(self, client_id: str, **options: Any) -> OutcomeReporter:
        return OutcomeReporter(self.origin, PrivateKeyJwt(client_id, key=new_key()), **options)

    def agent(self, client_id: str, **options: Any) -> Agent:
        options = {"connections": self.connections} | options
        return Agent(self.origin, PrivateKeyJwt(client_id, key=new_key()), **options)

    def async_agent(self, client_id: str, **options: Any) -> AsyncAgent:
        options = {"connections": self.connections} | options
        return AsyncAgent(self.origin, PrivateKeyJwt(client_id, key=new_key()), **options)

    @contextmanager
    def installed(self) -> Iterator[Self]:
        """Clients that are used inside the block reach this broker, whatever address they were made for."""
        with use_transport(self):
            yield self

    # --- the transport ---

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        return self._handle(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        return self._handle(request)

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        home = f"{request.url.scheme}://{request.url.netloc.decode()}"
        if "computeMetadata" in request.url.path:
            return self._identity(request)
        broker = home == self.origin or request.url.path in _PATHS  # clients were made for an origin of their own
        if not broker:
            return self._platform(request, home)
        self.origin_seen = home
        txn = secrets.token_urlsafe(8)
        headers = {"CAB-Txn": txn, "Cache-Control": "no-store"}
        try:
            if self.down:
                self.down -= 1
                raise _No(503, "temporarily_unavailable", "store_unavailable")
            body = self._answer(request, home)
        except _No as no:
            if no.status in (429, 503):
                headers["Retry-After"] = "0"
            return httpx2.Response(no.status, json={**no.body, "txn": txn}, headers=headers)
        if body is None:
            return httpx2.Response(204, headers=headers)
        return httpx2.Response(200, json={"txn": txn} | body, headers=headers)

    def _identity(self, request: httpx2.Request) -> httpx2.Response:
        now = int(time.time())
        claims = {"aud": request.url.params["audience"], "iss": "https://accounts.google.com", "sub": "workload"}
        token = self._sign(claims | {"iat": now, "exp": now + 3600}, typ="JWT")
        return httpx2.Response(200, text=token, headers={"Metadata-Flavor": "Google"})

    def _platform(self, request: httpx2.Request, home: str) -> httpx2.Response:
        self.requests.append(request)
        if "cab-assertion" not in request.headers:
            token = request.headers.get("authorization", "").partition(" ")[2]
            issued = self._tokens.get(token)
            if issued is None or issued["aud"] != home or token in self._ended:
                return httpx2.Response(401, json={"error": "invalid_token"})
        url = f"{home}{request.url.path}"
        status, body = self.answers.get((request.method, url), (200, {}))
        return httpx2.Response(status) if body is None else httpx2.Response(status, json=body)

    def _answer(self, request: httpx2.Request, home: str) -> dict[str, Any] | None:
        path = request.url.path
        match request.method, path:
            case "POST", "/edge/token":
                form = self._form(request, f"{home}/edge")
                return self._mint(form)
            case "POST", "/oauth2/token":
                form = self._form(request, f"{home}/oauth2")
                return self._token(form, home)
            case "POST", "/oauth2/outcomes":
                members = json.loads(request.content)
                self._report(members, self._client(members, f"{home}/oauth2", request))
                return None
            case "GET", "/tools":
                self._call_token(request, home)
                return {"tools": [self._tool(action) for action in self._rules]}
            case "POST", "/tools/call":
                return self._call(self._call_token(request, home), json.loads(request.content))
            case "GET", path if path == _METADATA:
                return {"issuer": f"{home}/oauth2", "jwks_uri": f"{home}{_KEYS}"}
            case "GET", path if path == _KEYS:
                return {"keys": [{name: value for name, value in self._jwk.items() if name != "d"}]}
        raise _No(404, "invalid_request", "not_found")

    # --- the broker's rules ---

    def _form(self, request: httpx2.Request, issuer: str) -> dict[str, str]:
        pairs = parse_qsl(request.content.decode(), keep_blank_values=True, strict_parsing=True)
        form = dict(pairs)
        if len(form) != len(pairs):
            raise _No(400, "invalid_request", "parameter_repeated")
        form["client"] = self._client(form, issuer, request)
        if "dpop" in request.headers:
            form["jkt"] = self._proven(request.headers["dpop"], f"{issuer}/token")
        return form

    def _proven(self, proof: str, url: str) -> str:
        """The thumbprint of the key that made this proof for the token endpoint."""
        import jwt

        try:
            jwk = jwt.get_unverified_header(proof)["jwk"]
            claims = jwt.decode(proof, jwt.PyJWK(jwk, algorithm="ES256"), algorithms=["ES256"])
            good = (claims["htm"], claims["htu"]) == ("POST", url) and claims["jti"] not in self._used
        except (jwt.PyJWTError, KeyError) as exc:
            raise _No(400, "invalid_dpop_proof", "dpop_proof_invalid") from exc
        if not good:
            raise _No(400, "invalid_dpop_proof", "dpop_proof_invalid")
        self._used.add(claims["jti"])
        members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        return digest(json.dumps(members, separators=(",", ":"), sort_keys=True).encode())

    def _client(self, form: Mapping[str, str], issuer: str, request: httpx2.Request) -> str:
        import base64

        import jwt

        scheme, _, basic = request.headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            return base64.b64decode(basic).decode().partition(":")[0]
        try:
            claims = jwt.decode(form["client_assertion"], options={"verify_signature": False})
            good = claims["aud"] == issuer and claims["exp"] - time.time() <= 3600
        except (jwt.PyJWTError, KeyError) as exc:
            raise _No(401, "invalid_client", "client_authentication_failed") from exc
        if not good:
            raise _No(401, "invalid_client", "client_authentication_failed")
        if "jti" in claims:  # a workload's identity token may be used again
            if claims["jti"] in self._used:
                raise _No(401, "invalid_client", "client_assertion_replayed")
            self._used.add(claims["jti"])
        return str(claims["sub"])

    def _report(self, members: dict[str, Any], client: str) -> None:
        named = (members.get("token"), members.get("token_sha256"))
        token, issued = next(
            (
                (one, claims)
                for one, claims in list(self._tokens.items())
                if one == named[0] or _sha256(one) == named[1]
            ),
            ("", None),
        )
        by_resource = issued is not None and issued["client_id"] != client
        witnessed = named[0] is not None and issued is not None and issued["aud"] in self._resources_of.get(client, ())
        if issued is None or (by_resource and (not witnessed or members["outcome"] == "not_used")):
            raise _No(400, "invalid_request", "parameter_invalid")
        said = (members["outcome"], members.get("upstream_status"))
        if not by_resource and self._said.setdefault(token, said) != said:
            raise _No(409, "invalid_request", "outcome_already_reported")
        hidden = ("token", "client_assertion", "client_assertion_type")
        told = {name: value for name, value in members.items() if name not in hidden}
        self.outcomes.append(told | {"observed_by": "resource" if by_resource else "agent"})

    def _mint(self, form: Mapping[str, str]) -> dict[str, Any]:
        user = self._id_tokens.get(form.get("subject_token", ""))
        if user is None:
            raise _No(400, "invalid_request", "subject_token_invalid")
        if not user:
            raise _No(400, "invalid_request", "subject_token_expired")
        task = json.loads(form["authorization_details"])[0] if "authorization_details" in form else None
        made = self._assertion(user, form.get("may_act", "*"), task, ())
        return self._as_assertion(made)

    def _as_assertion(self, made: Assertion) -> dict[str, Any]:
        return {
            "access_token": made.reveal(),
            "issued_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_type": "N_A",
            "expires_in": _LIFE_S,
        }

    def _assertion(self, user: str, agent: str, task: Mapping[str, Any] | None, chain: tuple[str, ...]) -> Assertion:
        until = time.time() + _LIFE_S
        txn = secrets.token_urlsafe(8)
        token = self._sign({"sub": user, "jti": secrets.token_urlsafe(8)}, typ="cab-assertion+jwt")
        self._assertions[token] = {
            "sub": user,
            "agent": agent,
            "task": task,
            "until": until,
            "chain": chain,
            "txn": txn,
        }
        return Assertion(token, expires_at=until, txn=txn)

    def expire(self, assertion: Assertion) -> None:
        """Let it have ended."""
        self._assertions[assertion.reveal()]["until"] = 0

    def _subject(self, form: Mapping[str, str]) -> dict[str, Any]:
        subject = self._assertions.get(form.get("subject_token", ""))
        if subject is None:
            raise _No(400, "invalid_request", "subject_token_invalid")
        if subject["until"] <= time.time():
            raise _No(400, "invalid_request", "subject_token_expired")
        if subject["agent"] not in ("*", form["client"]):
            raise _No(400, "invalid_request", "may_act_violated")
        return subject

    def _token(self, form: Mapping[str, str], home: str) -> dict[str, Any]:
        if form.get("grant_type") == DEFERRED:
            return self._redeem(form, home)
        if form.get("grant_type") != EXCHANGE:
            raise _No(400, "unsupported_grant_type", "grant_type_unknown")
        subject = self._subject(form)
        if "may_act" in form:
            task = json.loads(form["authorization_details"])[0] if "authorization_details" in form else subject["task"]
            chain = (*subject["chain"], form["client"])
            return self._as_assertion(self._assertion(subject["sub"], form["may_act"], task, chain))
        if form.get("resource") == f"{home}/mcp":
            return self._issue(subject, form["client"], form["resource"], [], home, form.get("jkt"))
        resources = [connection.resource for connection in self.connections.values()]
        if form.get("resource") not in resources and not self._any_system:
            raise _No(400, "invalid_target", "target_unknown")
        if "authorization_details" not in form:
            raise _No(400, "invalid_authorization_details", "intent_missing")
        (detail,) = json.loads(form["authorization_details"])
        rejected = any(form.get("rejected_token_sha256") == _sha256(token) for token in self._tokens)
        self._decide(subject, form["client"], detail, deferred="completion_mode" in form, rejected=rejected)
        return self._issue(subject, form["client"], form["resource"], [detail], home, form.get("jkt"))

    def _decide(
        self, subject: dict[str, Any], agent: str, detail: dict[str, Any], *, deferred: bool, rejected: bool = False
    ) -> None:
        """Raises: _No."""
        name = next((name for name, one in self.connections.items() if [one.resource] == detail["locations"]), "")
        intent = Intent(
            detail["actions"][0],
            on=name,
            identifier=detail["identifier"],
            parameters=detail.get("parameters", {}),
            reason=detail.get("reason"),
        )
        try:
            self._judge(subject, agent, detail, intent, deferred=deferred)
        except _No as no:
            self.exchanges.append(Exchange(agent, subject["sub"], intent, no.body["reason_code"], rejected))
            raise
        self.exchanges.append(Exchange(agent, subject["sub"], intent, None, rejected))

    def _judge(
        self, subject: dict[str, Any], agent: str, detail: dict[str, Any], intent: Intent, *, deferred: bool
    ) -> None:
        rule, effect = self._rules.get(intent.action, ("action_not_allowed_for_agent", "write"))
        task = subject["task"]
        if task is None and effect != "read":
            raise _No(400, "invalid_authorization_details", "intent_outside_task")
        if task is not None and not (
            any(_matches(pattern, intent.action) for pattern in task["actions"])
            and any(_matches(pattern, intent.identifier) for pattern in task["identifiers"])
        ):
            raise _No(400, "invalid_authorization_details", "intent_outside_task")
        if rule == "ask":
            self._question(subject["sub"], agent, detail, deferred=deferred)
        elif rule != "permit":
            more = {"interaction_uri": f"{self.origin_seen}/connect"} if rule.startswith("grant_") else {}
            more |= {"acr_values": "phr", "max_age": 0} if rule == "step_up_required" else {}  # type: ignore[dict-item]
            status = 503 if rule.endswith("_unavailable") else 429 if rule == "rate_limited" else 400
            raise _No(status, _ERRORS[rule], rule, **more)
        if task is not None and "limits" in task:
            self._uses[task["task_id"]] = uses = self._uses.get(task["task_id"], 0) + 1
            if uses > task["limits"]["max_uses"]:
                raise _No(400, "invalid_authorization_details", "task_exhausted")

    def _question(self, user: str, agent: str, detail: dict[str, Any], *, deferred: bool) -> None:
        """One open question for one intent; a yes is good once, a no lasts."""
        bound = {name: value for name, value in detail.items() if name != "reason"}
        key = json.dumps([user, agent, bound], sort_keys=True)
        question = self._questions.setdefault(key, _Question(detail))
        if question.state == "approved":
            del self._questions[key]
            return
        if question.state == "refused":
            raise _No(400, "access_denied", "confirmation_refused")
        about: dict[str, Any] = {"interaction_uri": self._uri(key), "expires_in": 600}
        if not deferred:
            raise _No(400, "interaction_required", "confirmation_required", **about)
        code = secrets.token_urlsafe(16)
        question.codes.append(code)
        raise _No(400, "authorization_pending", "authorization_pending", deferral_code=code, interval=0.05, **about)

    def _uri(self, key: str) -> str:
        return f"{self.origin_seen}/approvals/{digest(key.encode())}"

    def _redeem(self, form: Mapping[str, str], home: str) -> dict[str, Any]:
        user, detail = self._agreed(form.get("deferral_code", ""), form["client"])
        subject = {"sub": user, "chain": (), "txn": secrets.token_urlsafe(8), "task": None}
        return self._issue(subject, form["client"], detail["locations"][0], [detail], home, form.get("jkt"))

    def _agreed(self, code: str, client: str) -> tuple[str, dict[str, Any]]:
        """Whose question it was, and the intent that they said yes to, once."""
        key = next((key for key, question in self._questions.items() if code in question.codes), None)
        if key is None or json.loads(key)[1] != client:
            raise _No(400, "invalid_grant", "deferral_code_invalid")
        question = self._questions[key]
        if question.state == "open":
            raise _No(
                400,
                "authorization_pending",
                "authorization_pending",
                interaction_uri=self._uri(key),
                interval=0.05,
                expires_in=600,
            )
        if question.state == "refused":
            raise _No(400, "access_denied", "confirmation_refused")
        del self._questions[key]
        return json.loads(key)[0], question.intent

    def _issue(
        self,
        subject: dict[str, Any],
        agent: str,
        resource: str,
        details: list[dict[str, Any]],
        home: str,
        thumbprint: str | None,
    ) -> dict[str, Any]:
        now = int(time.time())
        granted = [{name: value for name, value in detail.items() if name != "reason"} for detail in details]
        canonical = json.dumps(granted, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        actor: dict[str, Any] = {}
        for name in (*subject["chain"], agent):
            actor = {"sub": name, "iss": f"{home}/oauth2", "sub_profile": "ai_agent"} | (
                {"act": actor} if actor else {}
            )
        claims = {
            "iss": f"{home}/oauth2",
            "aud": resource,
            "sub": subject["sub"],
            "client_id": agent,
            "act": actor,
            "scope": "fake",
            "authorization_details": granted,
            "intent_hash": f"sha-256:{digest(canonical.encode())}",
            "txn": subject["txn"],
            "tenant": "fake",
            "iat": now,
            "exp": now + _LIFE_S,
            "jti": secrets.token_urlsafe(8),
        }
        if subject["task"] is not None:
            claims["task_id"] = subject["task"]["task_id"]
        if thumbprint is not None:
            claims["cnf"] = {"jkt": thumbprint}
        token = self._sign(claims, typ="at+jwt")
        self._tokens[token] = claims | {"subject": subject}
        return {
            "access_token": token,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer" if thumbprint is None else "DPoP",
            "expires_in": _LIFE_S,
            "scope": "fake",
            "authorization_details": details,
        }

    def sign(self, claims: Mapping[str, Any], *, typ: str = "at+jwt") -> str:
        """A token with these claims by the fake's own key, for tests of resources."""
        return self._sign(claims, typ=typ)

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that was handed out."""
        return {name: value for name, value in self._tokens[token].items() if name != "subject"}

    def _sign(self, claims: Mapping[str, Any], *, typ: str) -> str:
        import jwt

        key = jwt.PyJWK(self._jwk, algorithm="ES256").key
        return jwt.encode(dict(claims), key, algorithm="ES256", headers={"typ": typ, "kid": self._jwk["kid"]})

    # --- call mode ---

    def _call_token(self, request: httpx2.Request, home: str) -> dict[str, Any]:
        issued = self._tokens.get(request.headers.get("authorization", "").partition(" ")[2])
        if issued is None or issued["aud"] != f"{home}/mcp":
            raise _No(401, "invalid_token", "call_token_invalid")
        return issued

    def _tool(self, action: str) -> dict[str, Any]:
        system = action.partition(".")[0]
        resource = self.connections[system].resource if system in self.connections else None
        return {"name": action.replace(".", "_"), "action": action, "mode": "call", "resource": resource}

    def _call(self, issued: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        if "deferral_code" in asked:
            _, detail = self._agreed(asked["deferral_code"], issued["client_id"])
            return self._called(asked, detail)
        action = next((one for one in self._rules if one.replace(".", "_") == asked["tool"]), None)
        system = (action or "").partition(".")[0]
        if action is None or system not in self.connections:
            raise _No(404, "invalid_request", "tool_unknown")
        arguments = dict(asked["arguments"])
        collection = action.split(".")[-2]
        detail = {
            "type": "cab_action",
            "actions": [action],
            "locations": [self.connections[system].resource],
            "identifier": f"{collection}/{arguments.pop('id', '*')}",
            "parameters": arguments,
        }
        self._decide(issued["subject"], issued["client_id"], detail, deferred="completion_mode" in asked)
        return self._called(asked, detail)

    def _called(self, asked: dict[str, Any], detail: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(asked)
        status, body = self.answers.get(("CALL", detail["actions"][0]), (200, {}))
        return {
            "outcome": "done" if status < 400 else "rejected",
            "result": body if status < 400 else None,
            "upstream": {"status": status},
            "trust": "untrusted",
            "authorization_details": [detail],
            "call_id": asked.get("call_id") or secrets.token_urlsafe(8),
        }


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _matches(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


# --- the running stack ---


class LocalStack:
    """The broker of `cab dev up`, by the `stack.json` that it writes (docs/local-stack.md)."""

    def __init__(self, state_dir: str | os.PathLike[str] | None = None, *, command: str | None = None) -> None:
        """`state_dir`: else CAB_STATE_DIR, else `.cab/dev`. `command`: else CAB_COMMAND, else `cab`."""
        self.state_dir = Path(state_dir or os.environ.get("CAB_STATE_DIR", ".cab/dev"))
        self._command = shlex.split(command or os.environ.get("CAB_COMMAND", "cab"))
        file = self.state_dir / "stack.json"
        if not file.exists():
            raise RuntimeError(f"No stack runs in {self.state_dir}: start one with `cab dev up`, or set CAB_STATE_DIR")
        self.file: dict[str, Any] = json.loads(file.read_text("utf-8"))
        self.origin: str = self.file["origin"]
        self.connections = {
            name: Connection(entry["api_base"], resource=entry["resource"])
            for name, entry in self.file["connections"].items()
        }

    def id_token(self, user: str) -> str:
        return self._cab("id-token", "--user", user)

    def front_end(self) -> FrontEnd:
        entry = self.file["front_end"]
        return FrontEnd(self.origin, PrivateKeyJwt(entry["client_id"], key_file=entry["private_key_file"]))

    def reporter(self, client_id: str, **options: Any) -> OutcomeReporter:
        return OutcomeReporter(self.origin, self._credential(client_id), **options)

    def agent(self, client_id: str, **options: Any) -> Agent:
        return Agent(self.origin, self._credential(client_id), **{"connections": self.connections} | options)

    def async_agent(self, client_id: str, **options: Any) -> AsyncAgent:
        return AsyncAgent(self.origin, self._credential(client_id), **{"connections": self.connections} | options)

    def _credential(self, client_id: str) -> PrivateKeyJwt:
        return PrivateKeyJwt(client_id, key_file=self.file["agents"][client_id]["private_key_file"])

    def mint(self, user: str, *, agent: str, task: Task | None = EVERYTHING) -> Assertion:
        """Log `user` in and mint for them, as a front end does."""
        return self.front_end().mint(Secret(self.id_token(user)), may_act=agent, task=task)

    @contextmanager
    def acting(self, user: str, *, agent: str, task: Task | None = EVERYTHING, **options: Any) -> Iterator[Agent]:
        """The agent, acting for `user` inside the block."""
        with acting_for(self.mint(user, agent=agent, task=task)):
            yield self.agent(agent, **options)

    def approve(self, uri: str, *, user: str, refuse: bool = False) -> None:
        """`user` decides on the page at `uri`, after a fresh login in a browser of their own."""
        self._cab("approve", uri, "--user", user, *(["--refuse"] if refuse else []))

    def _cab(self, *arguments: str) -> str:
        command = [*self._command, "dev", *arguments, "--state-dir", str(self.state_dir)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
        except FileNotFoundError:
            raise _no_command(command[0]) from None
        if done.returncode != 0:
            raise RuntimeError(f"`cab dev {arguments[0]}` failed: {done.stderr.strip()}")
        return done.stdout.strip()


def _no_command(name: str) -> RuntimeError:
    return RuntimeError(f"There is no command {name}: set CAB_COMMAND, such as CHECKOUT/.venv/bin/cab")


@contextmanager
def running_stack(
    state_dir: str | os.PathLike[str], *arguments: str, command: str | None = None, within_s: float = 120.0
) -> Iterator[LocalStack]:
    """A stack of its own on free ports for as long as the block lasts. `arguments` go to `cab dev up`."""
    folder = Path(state_dir)
    folder.mkdir(parents=True, exist_ok=True)
    start = [*shlex.split(command or os.environ.get("CAB_COMMAND", "cab")), "dev", "up", "--port", "0"]
    with (folder / "output.txt").open("wb") as output:
        try:
            process = subprocess.Popen(  # noqa: S603
                [*start, "--state-dir", str(folder), "--stop-at-eof", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError:
            raise _no_command(start[0]) from None
    try:
        end = time.monotonic() + within_s
        while not (folder / "stack.json").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The stack did not start; see {folder / 'output.txt'}")
            time.sleep(0.1)
        yield LocalStack(folder, command=command)
    finally:
        process.send_signal(signal.SIGTERM)
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
