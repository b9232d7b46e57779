"""The audit event: one typed row that answers the security review. The BigQuery schema is generated from this model.

It never holds a token, the first characters of one, or an e-mail address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from cab.domain.decisions import DecidedBy
from cab.domain.text.token_like import without_tokens
from cab.encoding.canonical_json import canonical

SCHEMA_VERSION = 4
# 1 has no `why` and no `unverified`, 2 no `call` and what came with it, 3 no `chain.settled` and no `latency_ms.refresh`.
KNOWN_SCHEMA_VERSIONS = frozenset({1, 2, 3, 4})


class EventType(StrEnum):
    ASSERTION_MINTED = "assertion.minted"
    EXCHANGE_DECIDED = "exchange.decided"
    TOKEN_INTROSPECTED = "token.introspected"
    TOKEN_REVOKED = "token.revoked"
    TOKEN_WITHHELD = "token.withheld"
    CONFIRMATION_REQUESTED = "confirmation.requested"
    CONFIRMATION_DECIDED = "confirmation.decided"
    GRANT_CONNECTED = "grant.connected"
    GRANT_REFRESHED = "grant.refreshed"
    GRANT_NEEDS_REAUTH = "grant.needs_reauth"
    GRANT_REVOKED = "grant.revoked"
    GRANT_QUARANTINED = "grant.quarantined"
    GRANT_SERVED = "grant.served"
    GRANT_ALLOWED = "grant.allowed"
    GRANT_MOVED = "grant.moved"
    GRANTS_SWEPT = "grants.swept"
    GRANT_VISITED = "grant.visited"
    TOOL_EXECUTED = "tool.executed"
    KEY_ROTATED = "key.rotated"
    SIGNAL_RECEIVED = "signal.received"
    REQUEST_REFUSED = "request.refused"
    REQUESTS_REFUSED_COUNTED = "requests.refused.counted"
    CHAIN_CLOSED = "chain.closed"


class Outcome(StrEnum):
    ISSUED = "issued"
    REFUSED = "refused"
    FAILED = "failed"
    EXECUTED = "executed"
    UNKNOWN = "unknown"  # a call that the platform may have done
    UNUSED = "unused"  # a token that its client says it did not use


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Subject(Part):
    key: str
    idp_issuer: str | None = None
    groups: list[str] = Field(default_factory=list)
    groups_unknown: str | None = Field(
        default=None, description="Why nothing is known of the groups: left_out, missing or unreadable."
    )


class Actor(Part):
    agent_id: str | None = None
    chain: list[str] = Field(default_factory=list, description="The agents before it, the most recent first.")
    client_id: str | None = None
    trust_zone: str | None = None
    delegates_to: str | None = Field(default=None, description="Who was given an assertion by this agent.")
    depth: int | None = Field(default=None, description="How many agents the assertion then has passed through.")


class LoginFacts(Part):
    """The login behind an assertion: the same for all that is minted from it."""

    session: str | None = Field(default=None, description="Opaque; one login of one user at one front end.")
    auth_time: datetime | None = None
    acr: str | None = None


class Tool(Part):
    connection: str | None = None
    provider: str | None = None
    action: str | None = None
    effect: str | None = None
    mode: str | None = None


class IntentFacts(Part):
    identifier: str | None = None
    parameters_digest: str | None = None
    parameters: str | None = Field(default=None, description="JSON text, redacted per action.")
    reason: str | None = Field(default=None, description="Untrusted text of the agent.")
    trigger: str | None = None
    task_id: str | None = None
    intent_hash: str | None = None


class TaskFacts(Part):
    bounds_digest: str | None = None
    within: bool | None = None
    comparison: str | None = None


class PolicyFacts(Part):
    version: str | None = None
    determining_rules: list[str] = Field(default_factory=list)
    shadow_decision: str | None = Field(
        default=None, description="What the candidate policies say, where there are any."
    )
    shadow_version: str | None = None
    shadow_differs: bool | None = Field(
        default=None, description="Whether they say something else than the active ones."
    )


class Scopes(Part):
    requested: list[str] = Field(default_factory=list)
    granted: list[str] = Field(default_factory=list)
    narrowed: bool | None = None


class TokenFacts(Part):
    kind: Literal["assertion", "call", "broker_jwt", "downstream"] | None = None
    jti: str | None = None
    sha256: str | None = None
    expires_at: datetime | None = None


class GrantFacts(Part):
    id: str | None = None
    seq: int | None = None
    secret_version: int | None = None
    cause: str | None = None
    upstream_revoked: bool | None = None
    provider_error: str | None = Field(default=None, description="The provider's own word: its status and error codes.")


Observer = Literal["broker", "resource", "agent"]
CallOutcome = Literal["done", "rejected", "failed", "not_sent", "unknown", "not_used"]


class CallFacts(Part):
    """One call of a platform. The attempt, before any token moves, says what will be sent; the outcome what came of it.

    Never a body, a selected value or an address with parameters in it.
    """

    id: str | None = Field(default=None, description="Joins the attempt with its outcome.")
    method: str | None = None
    host: str | None = None
    path_template: str | None = Field(default=None, description="The catalog's path, parameters not filled in.")
    request_digest: str | None = Field(default=None, description="Of what was approved, decided and sent.")
    request_bytes: int | None = None
    attempts: int | None = Field(default=None, description="How often the request was sent.")
    outcome: CallOutcome | None = None
    cause: str | None = Field(default=None, description="Why it ended so: a fixed word, such as interrupted.")
    upstream_status: int | None = None
    upstream_request_id: str | None = Field(default=None, description="Text of the platform.")
    response_bytes: int | None = None
    response_commitment: str | None = Field(
        default=None, description="SHA-256 over a salt, which only the answer has, and the canonical result."
    )
    items: int | None = None
    content_type: str | None = Field(default=None, description="Text of the platform.")
    marked_characters: int | None = Field(default=None, description="Invisible characters that were removed.")


OUTCOME_OF_CALL: Final[Mapping[CallOutcome, Outcome]] = {
    "done": Outcome.EXECUTED,
    "rejected": Outcome.FAILED,
    "failed": Outcome.FAILED,
    "not_sent": Outcome.FAILED,
    "unknown": Outcome.UNKNOWN,
    "not_used": Outcome.UNUSED,
}


class Unverified(Part):
    """What a refused credential says of itself. Anybody can write anything there."""

    client_id: str | None = Field(default=None, description="Claimed by a refused credential; checked by nobody.")
    issuer: str | None = Field(default=None, description="Claimed by a refused credential; checked by nobody.")


class Latency(Part):
    total: float | None = None
    policy: float | None = None
    grant: float | None = None
    refresh: float | None = Field(default=None, description="Of that: waited for refresh_grants.")
    upstream: float | None = None
    provider: float | None = Field(default=None, description="Waited for the provider's token endpoint.")
    publish: float | None = Field(
        default=None, description="Waited for the acknowledgement of other events, before this one was made."
    )


class Service(Part):
    function: str
    revision: str


class Chain(Part):
    """Place of the event in its process's hash chain: a gap, an edit or a reorder shows in SQL."""

    id: str
    seq: int
    prev_hash: str
    hash: str
    settled: int | None = Field(
        default=None,
        description="Up to which number all events of the chain were acknowledged, withheld tokens taken back included.",
    )


@dataclass(frozen=True, slots=True)
class SealedEvent:
    """An event with its place in a chain. `data` is what is published, now and at every retry, by whoever does it."""

    event_id: str
    event_type: str
    chain_id: str
    seq: int
    data: bytes


class AuditEvent(Part):
    """One decision or state change. `event_id` (UUIDv7) is fixed when the decision is made and survives every retry."""

    event_id: str
    event_type: EventType
    occurred_at: datetime
    schema_version: int = SCHEMA_VERSION
    tenant: str | None = None
    subject: Subject | None = None
    actor: Actor | None = None
    login: LoginFacts | None = None
    assertion_jti: str | None = Field(default=None, description="The assertion under which an exchange was asked for.")
    tool: Tool | None = None
    intent: IntentFacts | None = None
    task: TaskFacts | None = None
    decision: Literal["permit", "deny", "confirm"] | None = None
    reason_code: str | None = None
    decided_by: DecidedBy | None = Field(default=None, description="What came to this end.")
    why: str | None = Field(default=None, description="Which check refused a credential: a fixed phrase of ours.")
    unverified: Unverified | None = None
    policy: PolicyFacts | None = None
    scopes: Scopes | None = None
    token: TokenFacts | None = None
    grant: GrantFacts | None = None
    call: CallFacts | None = None
    observed_by: Observer | None = Field(
        default=None,
        description="Who says what came of it: the broker made the call, the resource served it, the agent had a token.",
    )
    confirmation_id: str | None = None
    outcome: Outcome | None = None
    corrects: str | None = Field(default=None, description="event_id of the event that this one takes back.")
    count: int | None = Field(default=None, description="How many refusals an aggregated event stands for.")
    latency_ms: Latency | None = None
    txn: str | None = None
    trace_id: str | None = None
    caller_ip_prefix: str | None = None
    service: Service | None = None
    chain: Chain | None = None


def withheld(event: AuditEvent, *, event_id: str, reason_code: str) -> AuditEvent:
    """What takes back an event that says `issued`: its token never left. The same instant, so that both are read together."""
    changes = {
        "event_id": event_id,
        "event_type": EventType.TOKEN_WITHHELD,
        "corrects": event.event_id,
        "outcome": Outcome.REFUSED,
        "reason_code": reason_code,
        "token": None,
    }
    return event.model_copy(update=changes)


MAX_CLAIMED_CHARS = 200


def unverified(client_id: str | None, issuer: str | None) -> Unverified | None:
    """Claims of a refused credential as the record may hold them: bounded, one line of ASCII, no token material."""
    if client_id is None and issuer is None:
        return None
    return Unverified(client_id=_claimed(client_id), issuer=_claimed(issuer))


def _claimed(text: str | None) -> str | None:
    if text is None:
        return None
    # Tokens first: half of one is one no more. What is cut off may be a megabyte, and is looked at by nobody.
    shown = without_tokens(text[: 8 * MAX_CLAIMED_CHARS]).encode("unicode_escape", "surrogatepass").decode("ascii")
    return shown if len(shown) <= MAX_CLAIMED_CHARS else shown[: MAX_CLAIMED_CHARS - 3] + "..."


_WRITTEN_BY_OTHERS = {
    "intent": ("identifier", "parameters", "reason", "trigger", "task_id"),
    "unverified": ("client_id", "issuer"),
    "grant": ("cause", "provider_error"),
    "login": ("acr",),
    "call": ("id", "request_digest", "upstream_request_id", "content_type"),
    "scopes": ("requested",),
}


def without_credentials(document: dict[str, Any]) -> dict[str, Any]:
    """The event as JSON with token-like text in what others wrote replaced by its fingerprint; itself where there is none."""
    changed: dict[str, Any] = {}
    for group, members in _WRITTEN_BY_OTHERS.items():
        facts = document.get(group)
        if not isinstance(facts, dict):
            continue
        safe = {name: _safe(facts[name]) for name in members if name in facts}
        if any(safe[name] != facts[name] for name in safe):
            changed[group] = facts | safe
    return document | changed if changed else document


def _safe(value: Any) -> Any:
    if isinstance(value, list):
        return [_safe(item) for item in value]
    return without_tokens(value) if isinstance(value, str) else value


def event_hash(event: dict[str, Any]) -> str:
    """SHA-256 (hex) over the RFC 8785 form of the event as JSON, without `chain.hash` itself."""
    chain = {name: value for name, value in event["chain"].items() if name != "hash"}
    return hashlib.sha256(canonical(event | {"chain": chain})).hexdigest()
