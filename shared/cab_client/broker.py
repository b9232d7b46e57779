"""What is said to the broker, as flows: mint, exchange, wait, delegate, call, report. The wire is docs/api.md's, byte for byte
where order does not matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from cab_client.credentials import ClientCredential, DpopKey
from cab_client.errors import (
    NOT_THE_BROKERS,
    AssertionExpired,
    BrokerFailed,
    CabError,
    ConfirmationNeeded,
    InvalidArgument,
    LoginExpired,
    Misconfigured,
    OutcomeUnknown,
    TryLater,
    error_from,
    is_brokers,
    number_of,
)
from cab_client.flows import CannotConnect, Flow, NoAnswer, Pause, Reply, Send
from cab_client.values import (
    Assertion,
    Connection,
    HiddenFields,
    Intent,
    Permit,
    Scalar,
    Secret,
    Task,
    is_jwt,
    is_scalar,
)

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
DEFERRED = "urn:ietf:params:oauth:grant-type:deferred"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"

RETRIES = 2
_FIRST_PAUSE_S = 0.2
_ONE_ANSWER_S = 15.0


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """What the platform answered to a call that the broker made. `result` is the platform's, never instructions to follow.

    `outcome` is `done` or `rejected`; `status` the platform's HTTP status.
    """

    outcome: str
    status: int | None
    result: Any
    call_id: str | None
    txn: str | None
    request_digest: str | None
    authorization_details: Sequence[Mapping[str, Any]] = ()

    @property
    def done(self) -> bool:
        return self.outcome == "done"


class Broker:
    """One client at one broker. Does no I/O and keeps no token but the call token of its last assertion."""

    def __init__(
        self,
        origin: str,
        credential: ClientCredential,
        *,
        connections: Mapping[str, Connection] | None = None,
        dpop: DpopKey | None = None,
        deadline_s: float = 30.0,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("the broker is named by its origin, such as https://cab.example")
        self.origin = origin
        self.issuer = f"{origin}/oauth2"
        self.edge_issuer = f"{origin}/edge"
        self.connections = dict(connections or {})
        self.dpop = dpop
        self._credential = credential
        self._deadline_s = deadline_s
        self._now = now
        self._monotonic = monotonic

    # --- front end ---

    def mint(self, id_token: str | Secret, *, may_act: str | None, task: Task | None) -> Flow[Assertion]:
        form = HiddenFields(
            grant_type=EXCHANGE,
            subject_token=id_token.reveal() if isinstance(id_token, Secret) else id_token,
            subject_token_type=ID_TOKEN,
            requested_token_type=JWT,
            audience=self.issuer,
        )
        if may_act is not None:
            form["may_act"] = may_act
        if task is not None:
            form["authorization_details"] = json.dumps([task.to_dict()])
        try:
            answer = yield from self._ask_token(self.edge_issuer, form)
        except AssertionExpired as error:
            expired = LoginExpired(error.reason_code, txn=error.txn, description=error.description)
        else:
            return self._assertion(answer)
        raise expired

    # --- agent ---

    def connection(self, name: str) -> Connection:
        """Raises: Misconfigured."""
        try:
            return self.connections[name]
        except KeyError:
            raise Misconfigured("connection_unknown", parameter=name, description="Not among `connections`.") from None

    def exchange(
        self, assertion: Assertion, intent: Intent, *, deferred: bool = False, rejected: Permit | None = None
    ) -> Flow[Permit]:
        """`rejected`: the permit whose token the platform has just refused."""
        resource = self.connection(intent.on).resource
        check_parameters(intent.parameters)
        form = HiddenFields(
            grant_type=EXCHANGE,
            subject_token=assertion.reveal(),
            subject_token_type=JWT,
            resource=resource,
            authorization_details=json.dumps([intent.to_detail(resource)]),
        )
        if rejected is not None:
            form["rejected_token_sha256"] = rejected.sha256
        if deferred:
            form["completion_mode"] = "deferred"
        return (yield from self._permit(form, intent))

    def redeem(self, code: str, intent: Intent | None) -> Flow[Permit]:
        """What the user decided. Raises ConfirmationNeeded while they have not."""
        return (yield from self._permit(HiddenFields(grant_type=DEFERRED, deferral_code=code), intent))

    def wait(
        self, needed: ConfirmationNeeded, assertion: Assertion | None, seconds: float
    ) -> Flow[Permit | CallResult]:
        """Poll until the user has decided, by a deferral, which is begun here where there is none."""
        code = needed.deferral_code
        pause = needed.interval
        end = self._monotonic() + seconds
        until = needed.until
        while True:
            last: ConfirmationNeeded
            try:
                return (yield from self._look_again(needed, code, assertion))
            except ConfirmationNeeded as error:
                last = error
            except TryLater as error:
                last, pause = needed, max(pause, error.retry_after or 0)
            code = last.deferral_code or code
            until = last.until or until
            pause = pause * 2 if last.reason_code == "polled_too_fast" else max(pause, last.interval)
            left = min(end - self._monotonic(), (until or self._now() + seconds) - self._now())
            if left <= pause:
                last.deferral_code, last.intent, last.uri = code, needed.intent, last.uri or needed.uri
                last.calls, last.call_id = needed.calls, needed.call_id
                raise last
            yield Pause(pause)

    def _look_again(
        self, needed: ConfirmationNeeded, code: str | None, assertion: Assertion | None
    ) -> Flow[Permit | CallResult]:
        intent = needed.intent
        if code is not None and not needed.calls:
            return (yield from self.redeem(code, intent))
        if assertion is None or intent is None:
            raise Misconfigured("assertion_missing", description="Give `agent.pending` the user's assertion too.")
        if not needed.calls:
            return (yield from self.exchange(assertion, intent, deferred=True))
        if code is None:
            return (yield from self.call(assertion, intent, call_id=needed.call_id, deferred=True))
        token = yield from self.call_token(assertion)
        return (yield from self._call(token, {"deferral_code": code}, intent))

    def delegate(self, assertion: Assertion, *, may_act: str, task: Task | None) -> Flow[Assertion]:
        form = HiddenFields(
            grant_type=EXCHANGE,
            subject_token=assertion.reveal(),
            subject_token_type=JWT,
            requested_token_type=JWT,
            audience=self.issuer,
            may_act=may_act,
        )
        if task is not None:
            form["authorization_details"] = json.dumps([task.to_dict()])
        return self._assertion((yield from self._ask_token(self.issuer, form)))

    # --- calls that the broker makes ---

    def call_token(self, assertion: Assertion) -> Flow[Permit]:
        form = HiddenFields(
            grant_type=EXCHANGE,
            subject_token=assertion.reveal(),
            subject_token_type=JWT,
            resource=f"{self.origin}/mcp",
        )
        return (yield from self._permit(form, None))

    def tools(self, assertion: Assertion) -> Flow[list[dict[str, Any]]]:
        """What `GET /tools` lists for this agent and user."""
        token = yield from self.call_token(assertion)
        url = f"{self.origin}/tools"

        def make() -> Flow[Send]:
            return Send("GET", url, token.headers("GET", url))
            yield

        answer = yield from self._ask(make)
        tools = answer.get("tools")
        return [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []

    def call(
        self, assertion: Assertion, intent: Intent, *, call_id: str | None = None, deferred: bool = False
    ) -> Flow[CallResult]:
        """Have the broker do it. Never sent twice by itself where the platform may have been reached."""
        check_parameters(intent.parameters)
        arguments: dict[str, Scalar] = dict(intent.parameters)
        _, _, last = intent.identifier.rpartition("/")
        if last != "*":
            arguments["id"] = last
        asked: dict[str, Any] = {"tool": intent.action.replace(".", "_"), "arguments": arguments}
        if intent.reason:
            asked["reason"] = intent.reason
        if call_id is not None:
            asked["call_id"] = call_id
        if deferred:
            asked["completion_mode"] = "deferred"
        token = yield from self.call_token(assertion)
        return (yield from self._call(token, asked, intent))

    def _call(self, token: Permit, asked: Mapping[str, Any], intent: Intent) -> Flow[CallResult]:
        url = f"{self.origin}/tools/call"
        body = json.dumps(asked).encode()

        def make() -> Flow[Send]:
            headers = HiddenFields(token.headers("POST", url) | {"Content-Type": "application/json"})
            return Send("POST", url, headers, body, timeout_s=self._deadline_s)
            yield

        try:
            answer = yield from self._ask(make, acts=True)
        except ConfirmationNeeded as error:
            error.intent, error.calls, error.call_id = intent, True, asked.get("call_id")
            raise
        if answer.get("outcome") not in ("done", "rejected"):
            raise OutcomeUnknown("answer_malformed", txn=answer.get("txn"), description=NOT_THE_BROKERS)
        upstream = answer.get("upstream")
        return CallResult(
            outcome=answer["outcome"],
            status=upstream.get("status") if isinstance(upstream, dict) else None,
            result=answer.get("result"),
            call_id=answer.get("call_id"),
            txn=answer.get("txn"),
            request_digest=answer.get("request_digest"),
            authorization_details=answer.get("authorization_details") or (),
        )

    def report(self, token: Secret, outcome: str, *, status: int | None, txn: str | None = None) -> Flow[None]:
        """Say what came of a token (docs/api.md, Outcomes). `txn`: of which hand-out, where a token was given twice."""
        text = token.reveal()
        members: dict[str, Any] = {"outcome": outcome}
        if text.count(".") == 2:
            members["token"] = text
        else:
            members["token_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        if txn is not None:
            members["txn"] = txn
        if status is not None:
            members["upstream_status"] = status
        secret_members = Secret(json.dumps(members))

        def make() -> Flow[Send]:
            proof = yield from self._credential.prove(self.issuer)
            body = json.dumps(json.loads(secret_members.reveal()) | dict(proof.fields)).encode()
            headers = HiddenFields(proof.headers)
            headers["Content-Type"] = "application/json"
            return Send("POST", f"{self.issuer}/outcomes", headers, body)

        yield from self._ask(make)

    def renew(self, assertion: Assertion, rejected: Permit, *, reports: bool) -> Flow[Permit | None]:
        """Another token for the same, and the one that was refused is over; None where the broker has no other."""
        assert rejected.intent is not None  # noqa: S101 - ours are made from one
        another = yield from self.exchange(assertion, rejected.intent, rejected=rejected)
        if another.sha256 == rejected.sha256:
            return None
        if reports:
            with contextlib.suppress(CabError):  # the record then says that nobody knows
                yield from self.report(Secret(rejected.reveal()), "rejected", status=401, txn=rejected.txn)
        rejected.drop()
        return another

    # --- one question to the broker ---

    def _permit(self, form: HiddenFields, intent: Intent | None) -> Flow[Permit]:
        try:
            answer = yield from self._ask_token(self.issuer, form)
        except ConfirmationNeeded as error:
            error.intent = intent
            raise
        details = answer.get("authorization_details")
        return Permit(
            _required(answer, "access_token"),
            intent=intent,
            token_type="DPoP" if str(answer.get("token_type")).lower() == "dpop" else "Bearer",
            expires_at=self._now() + (number_of(answer.get("expires_in")) or 0),
            scope=str(answer.get("scope") or ""),
            authorization_details=[one for one in details if isinstance(one, dict)]
            if isinstance(details, list)
            else [],
            txn=answer.get("txn"),
            narrowed=answer.get("narrowed") is not False,
            proofs=self.dpop,
        )

    def _assertion(self, answer: Mapping[str, Any]) -> Assertion:
        token = _required(answer, "access_token")
        if not is_jwt(token):
            raise BrokerFailed("answer_malformed", txn=answer.get("txn"), description="The assertion is no JWT.")
        return Assertion(
            token,
            expires_at=self._now() + (number_of(answer.get("expires_in")) or 0),
            txn=answer.get("txn"),
        )

    def _ask_token(self, issuer: str, form: Mapping[str, str]) -> Flow[dict[str, Any]]:
        url = f"{issuer}/token"
        nonce: str | None = None

        def make() -> Flow[Send]:
            proof = yield from self._credential.prove(issuer)
            headers = HiddenFields(proof.headers)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            if self.dpop is not None:
                headers["DPoP"] = self.dpop.proof("POST", url, nonce=nonce)
            return Send("POST", url, headers, urlencode({**form, **proof.fields}).encode(), _ONE_ANSWER_S)

        try:
            return (yield from self._ask(make))
        except _NonceNeeded as needed:  # RFC 9449 section 8
            nonce = needed.nonce
        return (yield from self._ask(make))

    def _ask(self, make: Callable[[], Flow[Send]], *, acts: bool = False) -> Flow[dict[str, Any]]:
        """Send until there is an answer: again after failures to connect, 429 and 503, at most twice and within the deadline.

        `acts`: where the broker may have received it and does not say what came of it, something may have been done.
        """
        end = self._monotonic() + self._deadline_s
        for attempt in range(RETRIES + 1):
            error: CabError
            pause = _FIRST_PAUSE_S * 2**attempt
            send = yield from make()
            send.timeout_s = max(0.1, min(send.timeout_s, end - self._monotonic()))
            try:
                reply = yield send
            except CannotConnect as why:
                error = TryLater("cannot_connect", description=f"The broker cannot be reached: {why}.")
            except NoAnswer:
                error = (OutcomeUnknown if acts else TryLater)(
                    "no_answer", description="The broker did not answer in time."
                )
                break
            else:
                if reply.status in (200, 204):
                    return self._object(reply, acts=acts)
                error = self._error(reply, acts=acts)
                if not isinstance(error, TryLater) or reply.status not in (429, 503):
                    break
                pause = max(pause, error.retry_after or 0)
            if attempt == RETRIES or self._monotonic() + pause > end:
                break
            yield Pause(pause)
        raise error from None

    def _object(self, reply: Reply, *, acts: bool) -> dict[str, Any]:
        body = {} if reply.status == 204 or not reply.body else reply.object()
        if body is None:
            kind = OutcomeUnknown if acts else BrokerFailed
            raise kind("answer_malformed", txn=reply.headers.get("cab-txn"), description=NOT_THE_BROKERS)
        return body

    def _error(self, reply: Reply, *, acts: bool) -> CabError:
        body = reply.object()
        if body is not None and body.get("error") == "use_dpop_nonce" and "dpop-nonce" in reply.headers:
            return _NonceNeeded(reply.headers["dpop-nonce"])
        error = error_from(reply.status, body, reply.headers, origin=self.origin, now=self._now())
        if acts and (reply.status == 500 or (reply.status > 500 and not is_brokers(body))):
            return OutcomeUnknown(error.reason_code, txn=error.txn, description="The broker may have made the call.")
        return error


class _NonceNeeded(CabError):
    def __init__(self, nonce: str) -> None:
        super().__init__("dpop_nonce_required")
        self.nonce = nonce


def _required(answer: Mapping[str, Any], member: str) -> Secret:
    value = answer.get(member)
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):  # else it would not fit in a header
        raise BrokerFailed("answer_malformed", txn=answer.get("txn"), description=f"The answer has no {member}.")
    return Secret(value)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises: InvalidArgument."""
    for name, value in parameters.items():
        if not is_scalar(value):
            raise InvalidArgument(name, "must be a text, a whole number, true or false, or texts")
