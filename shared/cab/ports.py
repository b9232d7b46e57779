"""What the broker needs from the outside, as role-named protocols. Every one has a real adapter and an in-memory fake under
`cab.adapters`; both pass the same contract suite in tests/contracts/.

All calls are bounded in time by the adapter. A dependency that does not answer raises `Unavailable`, never anything of a vendor.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol

from cab.domain.audit import AuditEvent, CallOutcome
from cab.domain.configured.actions import ParameterValue
from cab.domain.configured.calls import McpCall
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Decision
from cab.domain.errors import BrokerError
from cab.domain.identifiers import token_sha256
from cab.values import immutable


class Unavailable(Exception):
    """A dependency refused, timed out or is over its quota. `what` names it; nothing else is safe to show."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class AlreadyExists(Exception):
    """`create` met a document that is there."""


class Conflict(Exception):
    """A compare-and-set lost: the document changed, or is gone, since it was read."""


class NotFound(Exception):
    """There is nothing under that name."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The current instant, UTC, timezone-aware."""


class Randomness(Protocol):
    def event_id(self) -> str:
        """A UUIDv7, as text."""

    def token(self, n_bytes: int = 32) -> str:
        """Unguessable text, base64url, from `n_bytes` random bytes."""


# --- documents (Firestore) ---

Fields = dict[str, Any]  # None, bool, int, float, str, bytes, datetime (UTC), and lists and dicts of these


@immutable
class Document:
    """A document as read. `version` is opaque: it only serves `Replace` and `Delete`."""

    path: str
    fields: Fields
    version: object


@immutable
class Create:
    """Write only if nothing is there."""

    path: str
    fields: Fields
    expires_at: datetime | None = None  # stored as field `expire_at` for the TTL policy; readers still compare it


@immutable
class Replace:
    """Write all fields, only if the document is still the version that was read; with None, whatever is there or not."""

    path: str
    fields: Fields
    version: object | None
    expires_at: datetime | None = None


@immutable
class Delete:
    path: str
    version: object | None = None


Write = Create | Replace | Delete


@immutable
class Tally:
    """One blind atomic write: add to some integer fields, lower others to at most a value; absent documents start empty."""

    path: str
    add: Mapping[str, int] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    expires_at: datetime | None = None


@immutable
class Condition:
    field: str
    op: Literal["==", "<", "<=", ">", ">=", "array_contains"]
    value: Any


class Documents(Protocol):
    """One database of documents under `collection/id` paths. Single-document reads are strongly consistent.

    No transactions that read: `create` and compare-and-set are enough, take one round trip, and never re-run a caller's code.
    """

    async def read(self, path: str, *, known: object | None = None) -> Document | None:
        """`known` is the version that the caller has: a document that still is that one comes without its fields."""

    async def write(self, *writes: Write) -> tuple[object, ...]:
        """All or nothing; the new version of each. Raises AlreadyExists, Conflict, Unavailable (the outcome is then unknown)."""

    async def tally(self, tally: Tally) -> dict[str, int]:
        """The values after the write, of every field named. Concurrent calls each see their own distinct sum."""

    async def find(
        self,
        collection: str,
        *conditions: Condition,
        order_by: str | None = None,
        descending: bool = False,
        limit: int = 100,
        after: Document | None = None,
    ) -> list[Document]:
        """Documents of the collection that meet all conditions; equal order values are ordered by id."""

    async def server_time(self) -> datetime:
        """The store's own time, UTC: the same for all who ask, whatever their clocks say."""


# --- secrets (Secret Manager) ---


class SecretReader(Protocol):
    async def access(self, secret: str, version: int) -> bytes:
        """The payload, its CRC32C checked. Raises NotFound (also when destroyed), Unavailable."""


class SecretVault(SecretReader, Protocol):
    """Secrets that this function may also write. Only "add, then read by number" is strongly consistent, so nothing else is offered."""

    async def create(self, secret: str) -> None:
        """Idempotent: an existing secret is fine."""

    async def add(self, secret: str, payload: bytes) -> int:
        """The number of the new version. Raises Unavailable: the version may then exist all the same."""

    async def destroy(self, secret: str, version: int) -> None:
        """Clean-up only, never revocation. Idempotent."""

    async def may_add(self, secret: str) -> bool:
        """Whether a write would be allowed, asked without writing."""


# --- keys and tokens ---


class Signer(Protocol):
    async def sign(self, claims: Mapping[str, Any], *, typ: str) -> str:
        """A compact JWS, ES256, with the active key's kid. Raises Unavailable when no active key is available."""


class VerificationKeys(Protocol):
    async def find(self, issuer: str, kid: str | None, algorithm: str, *, instead_of: Any = None) -> Any:
        """The public key of an allow-listed issuer for this kid and algorithm, or those it may be (`jwk.VerificationKey`).

        `instead_of` was found before and did not verify: the issuer may have changed the key and kept its name. The same again
        where it did not, or where nobody can tell.

        Raises: NotFound when the issuer's current set has no such key; Unavailable when the set cannot be fetched.
        """


class ServiceTokens(Protocol):
    async def identity_token(self, audience: str) -> str:
        """A Google-signed ID token of this function's own account, for calling another function."""


# --- policy ---


@immutable
class PolicyRequest:
    """Everything policy may look at. `parameters` fit the catalog; nothing here is free text of the agent."""

    tenant: str
    subject: str
    groups: tuple[str, ...]
    action: str
    effect: str
    connection: str
    identifier: str
    parameters: Mapping[str, ParameterValue]
    agent: str
    trust_zone: str
    mode: str
    chain: tuple[str, ...]
    task_comparison: str
    task_present: bool
    trigger: str
    auth_age_s: int | None
    acr: str | None
    amr: tuple[str, ...]
    now: datetime
    groups_unknown: bool = False  # then `groups` is empty and says nothing


@immutable
class PolicyVerdict:
    decision: Decision
    shadow: Decision | None = None  # what the candidate policies say, when there are any
    shadow_version: str | None = None  # which candidates


class PolicyEngine(Protocol):
    def evaluate(self, request: PolicyRequest) -> PolicyVerdict:
        """Deny by default, `forbid` wins, any evaluation error is Deny(POLICY_ERROR). Pure computation."""


# --- audit ---


class AuditLog(Protocol):
    async def publish(
        self,
        event: AuditEvent,
        *,
        if_withheld: Callable[[], AuditEvent] | None = None,
        answered: Future[None] | None = None,
    ) -> None:
        """Returns when the event is durably acknowledged. Raises Unavailable; the event then goes ahead of the next one.

        `if_withheld` makes what takes the event back when it is not acknowledged in time or its caller goes away: it stands
        in the chain from that moment, so the event is not sent late without it. Until `answered` is done the event may still
        be taken back by its caller: no later one vouches for it, nor before what took it back is acknowledged.
        """


@immutable
class AuditRow:
    """A row of the audit table: `text` is JSON, an object with its columns. What has the same `id` may be written once."""

    id: str
    text: bytes


class AuditRows(Protocol):
    async def insert(self, rows: Sequence[AuditRow]) -> dict[int, str]:
        """Rows by position that can never be written, with why (a fixed word, no content). Raises Unavailable to be redelivered."""


class Quarantine(Protocol):
    async def put(self, data: bytes, *, cause: str, message_id: str) -> None:
        """Keep a message aside for people. Raises Unavailable."""


# --- other systems ---


@immutable
class HttpAnswer:
    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes  # at most the caller's limit
    said: Literal["no", "failed"] | None = None  # what a protocol within HTTP makes of it, whatever the status

    @property
    def retry_after_s(self) -> int | None:
        """`Retry-After` in seconds, of five digits at most (RFC 9110 section 10.2.3). None for nonsense, or without it.

        A part of a second counts as a whole one (Shopify says "2.0"). A date counts from the answer's own `Date`, so that no
        clock is compared with another.
        """
        value = self.headers.get("retry-after", "").strip()
        whole, _, rest = value.partition(".")
        if f"{whole}{rest}".isascii() and whole.isdigit() and (rest.isdigit() or whole == value):
            return int(whole) + bool(rest.strip("0")) if len(whole) < 6 else None
        try:
            wait = parsedate_to_datetime(value) - parsedate_to_datetime(self.headers.get("date", ""))
        except (ValueError, TypeError, OverflowError):
            return None
        return min(max(0, int(wait.total_seconds())), 99_999)


class AnswerTooLarge(Exception):
    """The other side sent more than the caller allows. `size` is what it said beforehand, in bytes; None when it did not say."""

    def __init__(self, size: int | None = None, *, status: int | None = None) -> None:
        super().__init__("the answer is too large")
        self.size = size
        self.status = status


class SendFailed(Unavailable):
    """`may_have_arrived` says whether the request's bytes can have reached the other side."""

    def __init__(self, what: str, *, may_have_arrived: bool) -> None:
        super().__init__(what)
        self.may_have_arrived = may_have_arrived


class CallRefused(Exception):
    """The broker does not make the call, or the other side wants something else first: nothing was done.

    `status` is what the other side answered with, None when nothing was sent.
    """

    def __init__(self, refusal: BrokerError, *, status: int | None) -> None:
        super().__init__(refusal.reason.value)
        self.refusal = refusal
        self.status = status


class JsonPoster(Protocol):
    """JSON by POST, under the rules of `HttpClient`."""

    async def post_json(
        self,
        url: str,
        document: Any,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
    ) -> HttpAnswer: ...


class FunctionPoster(JsonPoster, Protocol):
    """To our own functions, which may answer in parts."""

    async def post_json(
        self,
        url: str,
        document: Any,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
        first_line: Callable[[bytes], None] | None = None,
    ) -> HttpAnswer:
        """The whole answer. `first_line` is told that of a success once, when it has come, though the rest has not."""


class HttpClient(JsonPoster, Protocol):
    """Outbound HTTP to configured origins only: no redirects, addresses checked at connect time, size and time capped, no retry."""

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5,
        max_bytes: int = 102_400,
    ) -> HttpAnswer: ...

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
    ) -> HttpAnswer: ...


class DocumentReader(Protocol):
    """Documents that others publish, under the rules of `HttpClient`."""

    async def get(self, url: str, *, timeout_s: float = 5, max_bytes: int = 102_400) -> HttpAnswer: ...


class HttpSender(Protocol):
    """Any request to configured origins, under the rules of `HttpClient`; what is sent is sent once."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
        max_bytes: int,
    ) -> HttpAnswer:
        """The answer, whatever its status. `timeout_s` covers everything from the name's lookup to the last byte.

        Raises: SendFailed, AnswerTooLarge.
        """


class McpSenders(Protocol):
    """Tools of MCP servers, each as if it were an address that answers over plain HTTP."""

    def sender(self, connection: Connection, call: McpCall, *, user: str, reads: bool) -> HttpSender:
        """`user` names agent and person: what a server says to one is nothing to another. `body` of what is sent is that of
        the rendered call. Raises when sending: CallRefused, beside what others raise.
        """


@immutable
class ForetoldToken:
    """All that is known of a token of `refresh_grants` before it leaves there, but not the token."""

    sha256: str
    expires_at: datetime | None
    scopes: tuple[str, ...]
    narrowed: bool
    grant_id: str
    seq: int
    secret_version: int
    renew_at: datetime | None
    works_until: datetime | None


Foretell = Callable[[ForetoldToken], None]


@immutable
class AccessToken:
    """A downstream access token, as `refresh_grants` hands it out. Never a refresh token."""

    access_token: str
    expires_at: datetime | None
    scopes: tuple[str, ...]
    narrowed: bool
    grant_id: str
    seq: int
    secret_version: int
    outcome: str
    renew_at: datetime | None = None  # from then on refresh_grants is asked again
    works_until: datetime | None = None  # until then no refresh of ours ends it

    def __repr__(self) -> str:
        return f"AccessToken(grant_id={self.grant_id!r}, seq={self.seq})"

    def foretold(self) -> ForetoldToken:
        """What could be said of it beforehand."""
        return ForetoldToken(
            sha256=token_sha256(self.access_token),
            expires_at=self.expires_at,
            scopes=self.scopes,
            narrowed=self.narrowed,
            grant_id=self.grant_id,
            seq=self.seq,
            secret_version=self.secret_version,
            renew_at=self.renew_at,
            works_until=self.works_until,
        )


class GrantTokens(Protocol):
    """`refresh_grants`, as `exchange_token` sees it."""

    async def access_token(
        self,
        *,
        subject_assertion: str,
        connection: str,
        scopes: tuple[str, ...],
        txn: str,
        provider_subject_token: str | None = None,
        rejected_token_sha256: str | None = None,
        foretell: Foretell | None = None,
    ) -> AccessToken:
        """A token of that user's grant with at least the scopes. Where our STS vouches, its JWT for the provider comes along.

        `rejected_token_sha256` (hex) names a token that the platform has just refused: another one is got where that is
        still the current one and no such wish was followed within the last minute. The same one may come again.

        `foretell` is told, at most once, of a new token that can be lost no more, before it is the grant's: only the answer
        says whether it became that, and which token may leave.

        Raises BrokerError (GRANT_*, PROVIDER_UNAVAILABLE), Unavailable.
        """

    async def revoke(self, *, grant_id: str, cause: str, txn: str) -> bool:
        """Revoke here at once, then upstream; whether upstream confirmed."""


@immutable
class CallCredentials:
    """What an agent presented to have a tool called. `url` and `method` are those its DPoP proof must name."""

    call_token: str
    method: str
    url: str
    dpop_proof: str | None = None

    def __repr__(self) -> str:
        return "CallCredentials()"


@immutable
class PermittedCall:
    """One call that was decided on and is on record, with the one token for it. `attempt` serves to ask for another token."""

    access_token: str
    connection: str
    authorization_details: list[dict[str, Any]]
    intent_hash: str
    request_digest: str
    call_id: str
    idempotency_key: str
    attempt: str

    def __repr__(self) -> str:
        return f"PermittedCall({self.call_id!r})"


class CallDecisions(Protocol):
    """`exchange_token`, as `call_tool` sees it. Every method raises BrokerError as an exchange does, with its remedy, when
    the call is refused (the refusal is on record then); Unavailable."""

    async def decide(
        self,
        credentials: CallCredentials,
        *,
        connection: str,
        detail: Mapping[str, Any],
        call_id: str | None,
        deferred: bool,
        policy_version: str,
    ) -> PermittedCall: ...

    async def resume(
        self, credentials: CallCredentials, *, deferral_code: str, policy_version: str
    ) -> PermittedCall: ...

    async def another_token(
        self, credentials: CallCredentials, *, attempt: str, rejected_token_sha256: str, policy_version: str
    ) -> str:
        """A token in place of the one that the platform refused; maybe the same."""

    async def tell(self, *, attempt: str, outcome: CallOutcome) -> None:
        """What came of a call that was let through, for the user's own page. Takes 2 s at most. Raises: Unavailable."""


class Configuration(Protocol):
    def load(self) -> Deployment: ...
