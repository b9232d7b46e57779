"""The JWTs that name a user to a system which trusts this broker: subject tokens (RFC 8693) and ID-JAGs (see drafts.py).

Signed by exchange_token with the STS key, checked by refresh_grants before they go out, seen by no agent. The audience is the
name under which that system knows the broker, or the system's own issuer, and an ID-JAG has a `typ` of its own: neither is an
assertion or an access token of ours, nor good at any other system.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from cab.encoding.canonical_json import canonical
from cab.protocol.drafts import ID_JAG_TYP, SUB_PROFILE_AI_AGENT
from cab.protocol.jose.jws import Rules, VerifiedClaims
from cab.protocol.tokens.assertions import Assertion, actor_claim, group_claims
from cab.values import immutable

TYP: Final = "JWT"
LIFE: Final = timedelta(seconds=300)
_OF_ONE_TOKEN: Final = frozenset({"jti", "iat", "exp"})
_OF_ONE_REQUEST: Final = frozenset({"txn", "scope"})


@immutable
class Statement:
    """What one of these JWTs says. `claims` are all but its id and times; both functions derive them from the assertion."""

    typ: str
    claims: Mapping[str, Any]

    @property
    def about(self) -> str:
        """What it tells the system of the user and the agents: an access token got with it is for nobody else."""
        lasting = {name: value for name, value in self.claims.items() if name not in _OF_ONE_REQUEST}
        return canonical(lasting).decode()


def for_token_exchange(assertion: Assertion, *, issuer: str, audience: str, subject: str) -> Statement:
    """`subject` is the user as the system knows them; `txn` ties the token to its exchange."""
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        **group_claims(assertion.groups, assertion.groups_unknown),
        "txn": assertion.txn,
    }
    return Statement(TYP, claims)


def id_jag(
    assertion: Assertion,
    *,
    issuer: str,
    audience: str,
    subject: str,
    client_id: str,
    resource: str,
    scopes: tuple[str, ...],
) -> Statement:
    """An ID-JAG: the user, the client that redeems it, and the most it may get. No e-mail address, no groups.

    `act` (RFC 8693 section 4.1) is the agent that asked, and those that delegated to it; how the user logged in is said as
    far as the identity provider did.
    """
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "client_id": client_id,
        "resource": resource,
        "act": actor_claim((assertion.may_act, *assertion.chain), issuer, sub_profile=SUB_PROFILE_AI_AGENT),
        "txn": assertion.txn,
    }
    optional = {
        "scope": " ".join(scopes) or None,
        "auth_time": assertion.auth_time,
        "acr": assertion.acr,
        "amr": list(assertion.amr) or None,
    }
    return Statement(ID_JAG_TYP, claims | {name: value for name, value in optional.items() if value is not None})


def claims(statement: Statement, *, jti: str, now: datetime) -> dict[str, Any]:
    """The claims of one token with this statement, for the next five minutes."""
    issued_at = int(now.timestamp())
    return {**statement.claims, "iat": issued_at, "exp": issued_at + int(LIFE.total_seconds()), "jti": jti}


def rules(statement: Statement) -> Rules:
    return Rules(
        typ=frozenset({statement.typ.lower()}),
        algorithms=frozenset({"ES256"}),
        issuer=statement.claims["iss"],
        audiences=frozenset({statement.claims["aud"]}),
        max_life=LIFE,
    )


def says(verified: VerifiedClaims, statement: Statement) -> bool:
    """Whether the token says this and nothing more: a system may also go by claims that we never make."""
    said = {name: value for name, value in verified.claims.items() if name not in _OF_ONE_TOKEN}
    return said == statement.claims
