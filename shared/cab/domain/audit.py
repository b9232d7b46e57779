"""The audit event: one typed row that answers the security review. The BigQuery schema is generated from this model.

It never holds a token, the first characters of one, or an e-mail address.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict

from cab.domain.decisions import DecidedBy
from cab.domain.text.token_like import without_tokens
from cab.encoding.canonical_json import canonical, canonical_in_order
from cab.encoding.records import adapter, described, loose_reader
from cab.values import immutable, mutable

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


class Part:
    """What an event is made of. Ours are made as they are; those of others are read by `read`, strictly."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", hide_input_in_errors=True)


@mutable
class Subject(Part):
    key: str
    idp_issuer: str | None = None
    groups: list[str] = field(default_factory=list)
    groups_unknown: str | None = field(
        default=None, metadata=described("Why nothing is known of the groups: left_out, missing or unreadable.")
    )


@mutable
class Actor(Part):
    agent_id: str | None = None
    chain: list[str] = field(default_factory=list, metadata=described("The agents before it, the most recent first."))
    client_id: str | None = None
    trust_zone: str | None = None
    delegates_to: str | None = field(default=None, metadata=described("Who was given an assertion by this agent."))
    depth: int | None = field(
        default=None, metadata=described("How many agents the assertion then has passed through.")
    )


@mutable
class LoginFacts(Part):
    """The login behind an assertion: the same for all that is minted from it."""

    session: str | None = field(default=None, metadata=described("Opaque; one login of one user at one front end."))
    auth_time: datetime | None = None
    acr: str | None = None


@mutable
class Tool(Part):
    connection: str | None = None
    provider: str | None = None
    action: str | None = None
    effect: str | None = None
    mode: str | None = None


@mutable
class IntentFacts(Part):
    identifier: str | None = None
    parameters_digest: str | None = None
    parameters: str | None = field(default=None, metadata=described("JSON text, redacted per action."))
    reason: str | None = field(default=None, metadata=described("Untrusted text of the agent."))
    trigger: str | None = None
    task_id: str | None = None
    intent_hash: str | None = None


@mutable
class TaskFacts(Part):
    bounds_digest: str | None = None
    within: bool | None = None
    comparison: str | None = None


@mutable
class PolicyFacts(Part):
    version: str | None = None
    determining_rules: list[str] = field(default_factory=list)
    shadow_decision: str | None = field(
        default=None, metadata=described("What the candidate policies say, where there are any.")
    )
    shadow_version: str | None = None
    shadow_differs: bool | None = field(
        default=None, metadata=described("Whether they say something else than the active ones.")
    )


@mutable
class Scopes(Part):
    requested: list[str] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)
    narrowed: bool | None = None


@mutable
class TokenFacts(Part):
    kind: Literal["assertion", "call", "broker_jwt", "downstream"] | None = None
    jti: str | None = None
    sha256: str | None = None
    expires_at: datetime | None = None


@mutable
class GrantFacts(Part):
    id: str | None = None
    seq: int | None = None
    secret_version: int | None = None
    cause: str | None = None
    upstream_revoked: bool | None = None
    provider_error: str | None = field(
        default=None, metadata=described("The provider's own word: its status and error codes.")
    )


Observer = Literal["broker", "resource", "agent"]
CallOutcome = Literal["done", "rejected", "failed", "not_sent", "unknown", "not_used"]


@mutable
class CallFacts(Part):
    """One call of a platform. The attempt, before any token moves, says what will be sent; the outcome what came of it.

    Never a body, a selected value or an address with parameters in it.
    """

    id: str | None = field(default=None, metadata=described("Joins the attempt with its outcome."))
    method: str | None = None
    host: str | None = None
    path_template: str | None = field(default=None, metadata=described("The catalog's path, parameters not filled in."))
    request_digest: str | None = field(default=None, metadata=described("Of what was approved, decided and sent."))
    request_bytes: int | None = None
    attempts: int | None = field(default=None, metadata=described("How often the request was sent."))
    outcome: CallOutcome | None = None
    cause: str | None = field(default=None, metadata=described("Why it ended so: a fixed word, such as interrupted."))
    upstream_status: int | None = None
    upstream_request_id: str | None = field(default=None, metadata=described("Text of the platform."))
    response_bytes: int | None = None
    response_commitment: str | None = field(
        default=None, metadata=described("SHA-256 over a salt, which only the answer has, and the canonical result.")
    )
    items: int | None = None
    content_type: str | None = field(default=None, metadata=described("Text of the platform."))
    marked_characters: int | None = field(default=None, metadata=described("Invisible characters that were removed."))


OUTCOME_OF_CALL: Final[Mapping[CallOutcome, Outcome]] = {
    "done": Outcome.EXECUTED,
    "rejected": Outcome.FAILED,
    "failed": Outcome.FAILED,
    "not_sent": Outcome.FAILED,
    "unknown": Outcome.UNKNOWN,
    "not_used": Outcome.UNUSED,
}


@mutable
class Unverified(Part):
    """What a refused credential says of itself. Anybody can write anything there."""

    client_id: str | None = field(
        default=None, metadata=described("Claimed by a refused credential; checked by nobody.")
    )
    issuer: str | None = field(default=None, metadata=described("Claimed by a refused credential; checked by nobody."))


@mutable
class Latency(Part):
    total: float | None = None
    policy: float | None = None
    grant: float | None = None
    refresh: float | None = field(default=None, metadata=described("Of that: waited for refresh_grants."))
    upstream: float | None = None
    provider: float | None = field(default=None, metadata=described("Waited for the provider's token endpoint."))
    publish: float | None = field(
        default=None, metadata=described("Waited for the acknowledgement of other events, before this one was made.")
    )


@mutable
class Service(Part):
    function: str
    revision: str


@mutable
class Chain(Part):
    """Place of the event in its process's hash chain: a gap, an edit or a reorder shows in SQL."""

    id: str
    seq: int
    prev_hash: str
    hash: str
    settled: int | None = field(
        default=None,
        metadata=described(
            "Up to which number all events of the chain were acknowledged, withheld tokens taken back included."
        ),
    )


@immutable
class SealedEvent:
    """An event with its place in a chain. `data` is what is published, now and at every retry, by whoever does it."""

    event_id: str
    event_type: str
    chain_id: str
    seq: int
    data: bytes


@mutable
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
    assertion_jti: str | None = field(
        default=None, metadata=described("The assertion under which an exchange was asked for.")
    )
    tool: Tool | None = None
    intent: IntentFacts | None = None
    task: TaskFacts | None = None
    decision: Literal["permit", "deny", "confirm"] | None = None
    reason_code: str | None = None
    decided_by: DecidedBy | None = field(default=None, metadata=described("What came to this end."))
    why: str | None = field(
        default=None, metadata=described("Which check refused a credential: a fixed phrase of ours.")
    )
    unverified: Unverified | None = None
    policy: PolicyFacts | None = None
    scopes: Scopes | None = None
    token: TokenFacts | None = None
    grant: GrantFacts | None = None
    call: CallFacts | None = None
    observed_by: Observer | None = field(
        default=None,
        metadata=described(
            "Who says what came of it: the broker made the call, the resource served it, the agent had a token."
        ),
    )
    confirmation_id: str | None = None
    outcome: Outcome | None = None
    corrects: str | None = field(default=None, metadata=described("event_id of the event that this one takes back."))
    count: int | None = field(default=None, metadata=described("How many refusals an aggregated event stands for."))
    latency_ms: Latency | None = None
    txn: str | None = None
    trace_id: str | None = None
    caller_ip_prefix: str | None = None
    service: Service | None = None
    chain: Chain | None = None


def read(document: Any) -> AuditEvent:
    """An event that was published or stored, from its JSON value. Raises: pydantic.ValidationError."""
    event: AuditEvent = adapter(AuditEvent).validate_python(document)
    return event


def read_published(text: bytes) -> dict[str, Any] | None:
    """An event from the form in which ours are published, RFC 8785: a dictionary, instants in it. None for every other text, which may
    be an event, too.

    What is read loosely gives its own bytes again only from a text that has each member once, in order, none that is not known, and
    every value of its type.
    """
    try:
        event: dict[str, Any] = loose_reader(AuditEvent).validate_json(text)
        return event if canonical_in_order(event, floats=_fractions(event)) == text else None
    except (ValueError, TypeError):
        return None


def read_json(text: bytes | str) -> AuditEvent:
    """The same from the JSON itself. Raises: pydantic.ValidationError."""
    event: AuditEvent = adapter(AuditEvent).validate_json(text)
    return event


def withheld(event: AuditEvent, *, event_id: str, reason_code: str) -> AuditEvent:
    """What takes back an event that says `issued`: its token never left. The same instant, so that both are read together."""
    return replace(
        event,
        event_id=event_id,
        event_type=EventType.TOKEN_WITHHELD,
        corrects=event.event_id,
        outcome=Outcome.REFUSED,
        reason_code=reason_code,
        token=None,
    )


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
    "call": ("id", "upstream_request_id", "content_type"),  # digests are taken in by their form
    "scopes": ("requested",),
}


def without_credentials(document: dict[str, Any]) -> dict[str, Any]:
    """The event as JSON with token-like text in what others wrote replaced by its fingerprint; itself where there is none."""
    safe_document = document
    for group, members in _WRITTEN_BY_OTHERS.items():
        facts = document.get(group)
        if not facts:
            continue
        for name in members:
            value = facts.get(name)
            if value and (safe := _safe(value)) != value:
                facts = facts | {name: safe}
                safe_document = safe_document | {group: facts}
    return safe_document


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return without_tokens(value)
    return [_safe(item) for item in value] if isinstance(value, list) else value


def event_hash(event: dict[str, Any]) -> str:
    """SHA-256 (hex) over the RFC 8785 form of the event as JSON, without `chain.hash` itself."""
    chain = {name: value for name, value in event["chain"].items() if name != "hash"}
    return hashlib.sha256(canonical_event(event | {"chain": chain})).hexdigest()


def canonical_event(event: dict[str, Any]) -> bytes:
    """The RFC 8785 form of an event as JSON: nothing but latencies has fractions."""
    return canonical(event, floats=_fractions(event))


def _fractions(event: dict[str, Any]) -> Iterable[float]:
    latencies = event.get("latency_ms")
    return latencies.values() if latencies else ()


_CHAIN: Final = b'"chain":{'  # of an event in that form; inside of strings no quotation mark stands alone


def with_hash(hashed: bytes, own: str) -> bytes:
    """The RFC 8785 form of an event with its hash put in: the first of the chain's members in that order."""
    return hashed.replace(_CHAIN, _CHAIN + _hash_member(own), 1)


def without_hash(text: bytes, own: str) -> bytes:
    """What was hashed, from the RFC 8785 form of an event: what `with_hash` put in is taken out."""
    before, chain, after = text.partition(_CHAIN)
    return before + chain + after.removeprefix(_hash_member(own))


def _hash_member(own: str) -> bytes:
    return b'"hash":"%s",' % own.encode()
