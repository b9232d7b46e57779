"""The assertion: our edge JWT that carries the subject from hop to hop. Reusable until `exp`, bounded by `may_act` and the task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cab.domain.errors import BrokerError
from cab.domain.groups import GroupsUnknown
from cab.domain.identifiers import CLIENT_ID
from cab.domain.tasks import Task
from cab.protocol.authorization_details import task_detail, validate_detail
from cab.protocol.jose.jws import Rules, TokenRejected, VerifiedClaims
from cab.protocol.names import ASSERTION_TYP
from cab.values import immutable

MAX_LIFE: Final = timedelta(seconds=300)
MAX_DEPTH: Final = 3  # agents in one delegation chain
MAX_GROUPS: Final = 100
_DAY_S: Final = 86_400


@immutable
class Assertion:
    """A verified assertion. `chain` lists the agents that delegated so far, the most recent first; it is informational."""

    issuer: str
    subject: str
    tenant: str
    idp_issuer: str
    idp_subject_hash: str
    groups: tuple[str, ...]
    front_end: str
    may_act: str
    txn: str
    jti: str
    issued_at: datetime
    expires_at: datetime
    chain: tuple[str, ...] = ()
    task: Task | None = None
    auth_time: int | None = None
    vouched_at: int | None = None  # when the provider said who this is, where it does not say when they logged in
    acr: str | None = None
    amr: tuple[str, ...] = ()
    jkt: str | None = None
    groups_unknown: GroupsUnknown | None = None
    access_ends_at: int | None = None  # when the person's rights end: what outlives the assertion must not outlive that

    def claims(self, *, audience: str, sts_issuer: str) -> dict[str, Any]:
        """The JWT claims of this assertion."""
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": audience,
            "sub": self.subject,
            "tenant": self.tenant,
            "idp": {"iss": self.idp_issuer, "sub_hash": self.idp_subject_hash},
            **group_claims(self.groups, self.groups_unknown),
            "client_id": self.front_end,
            "may_act": {"sub": self.may_act},
            "txn": self.txn,
            "iat": int(self.issued_at.timestamp()),
            "exp": int(self.expires_at.timestamp()),
            "jti": self.jti,
        }
        if self.chain:
            claims["act"] = actor_claim(self.chain, sts_issuer)
        if self.task is not None:
            claims["authorization_details"] = [task_detail(self.task)]
        if self.auth_time is not None:
            claims["auth_time"] = self.auth_time
        if self.vouched_at is not None:
            claims["vouched_at"] = self.vouched_at
        if self.access_ends_at is not None:
            claims["access_ends_at"] = self.access_ends_at
        if self.acr is not None:
            claims["acr"] = self.acr
        if self.amr:
            claims["amr"] = list(self.amr)
        if self.jkt is not None:
            claims["cnf"] = {"jkt": self.jkt}
        return claims


def group_claims(groups: tuple[str, ...], unknown: GroupsUnknown | None) -> dict[str, Any]:
    """`groups`, or instead of it why nothing is known of them: an empty list would say that there are none."""
    return {"groups": list(groups)} if unknown is None else {"groups_unknown": unknown.value}


def actor_claim(chain: tuple[str, ...], sts_issuer: str, **current: str) -> dict[str, Any]:
    """Nested `act` (RFC 8693 section 4.1): the current actor outside, earlier ones inside."""
    act: dict[str, Any] = {}
    for agent in reversed(chain):
        act = {"sub": agent, "iss": sts_issuer} | ({"act": act} if act else {})
    return act | current


def rules(issuer: str, audience: str) -> Rules:
    return Rules(
        typ=frozenset({ASSERTION_TYP}),
        algorithms=frozenset({"ES256"}),
        issuer=issuer,
        audiences=frozenset({audience}),
        max_life=MAX_LIFE,
    )


def read(verified: VerifiedClaims) -> Assertion:
    """The assertion behind verified claims. Raises TokenRejected: even our own signature does not excuse a malformed claim."""
    claims = verified.claims
    idp = _object(claims.get("idp"), "idp")
    may_act = _object(claims.get("may_act"), "may_act").get("sub")
    if not isinstance(may_act, str) or not CLIENT_ID.fullmatch(may_act):
        raise TokenRejected("may_act is malformed")
    if verified.issued_at is None:
        raise TokenRejected("iat is missing")
    if "groups" in claims and "groups_unknown" in claims:
        raise TokenRejected("groups are both known and unknown")
    return Assertion(
        issuer=verified.issuer,
        subject=verified.text("sub"),
        tenant=verified.text("tenant"),
        idp_issuer=_text(idp.get("iss"), "idp"),
        idp_subject_hash=_text(idp.get("sub_hash"), "idp"),
        groups=_texts(claims.get("groups", []), "groups", limit=MAX_GROUPS),
        front_end=verified.text("client_id"),
        may_act=may_act,
        txn=verified.text("txn"),
        jti=verified.text("jti"),
        issued_at=verified.issued_at,
        expires_at=verified.expires_at,
        chain=_chain(claims.get("act")),
        task=_task(claims.get("authorization_details")),
        auth_time=verified.optional_time("auth_time"),
        vouched_at=verified.optional_time("vouched_at"),
        access_ends_at=verified.optional_time("access_ends_at"),
        acr=verified.optional_text("acr"),
        amr=_texts(claims.get("amr", []), "amr", limit=20),
        jkt=_text(_object(claims["cnf"], "cnf").get("jkt"), "cnf") if "cnf" in claims else None,
        groups_unknown=_groups_unknown(claims.get("groups_unknown")),
    )


def restore(claims: dict[str, Any]) -> Assertion:
    """An assertion from claims that were verified before and kept by the broker itself (a deferred exchange)."""
    issued_at, expires_at = (datetime.fromtimestamp(claims[name], UTC) for name in ("iat", "exp"))
    return read(VerifiedClaims(claims, claims["iss"], expires_at=expires_at, issued_at=issued_at))


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TokenRejected(f"{name} is malformed")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 500:
        raise TokenRejected(f"{name} is malformed")
    return value


def _texts(value: object, name: str, *, limit: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > limit:
        raise TokenRejected(f"{name} is malformed")
    return tuple([_text(item, name) for item in value])


def _groups_unknown(value: object) -> GroupsUnknown | None:
    try:
        return None if value is None else GroupsUnknown(str(value))
    except ValueError as error:
        raise TokenRejected("groups_unknown is malformed") from error


def _chain(act: object) -> tuple[str, ...]:
    chain: list[str] = []
    while act is not None:
        actor = _object(act, "act")
        chain.append(_text(actor.get("sub"), "act"))
        if len(chain) > MAX_DEPTH:
            raise TokenRejected("act is nested too deep")
        act = actor.get("act")
    return tuple(chain)


def _task(details: object) -> Task | None:
    if details is None:
        return None
    if not isinstance(details, list) or len(details) != 1:
        raise TokenRejected("authorization_details is malformed")
    try:
        return validate_detail(Task, details[0])
    except BrokerError as error:
        raise TokenRejected("authorization_details is malformed") from error


def expiry(now: datetime, *, lifetime_s: int, not_after: datetime) -> datetime:
    """When a new assertion ends: its own life, and never past what it was made from. Whole seconds, as JWTs carry them."""
    return min(now + timedelta(seconds=lifetime_s), not_after).astimezone(UTC).replace(microsecond=0)


def whole_seconds_until(instant: datetime, now: datetime) -> int:
    """`expires_in` as the JWT itself says it: `exp` minus the current NumericDate, never negative."""
    rest = instant - now
    begun = instant.microsecond < now.microsecond  # of two parts of a second the later is cut off more
    return max(0, rest.days * _DAY_S + rest.seconds + begun)
