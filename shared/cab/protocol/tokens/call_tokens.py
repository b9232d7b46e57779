"""Call tokens: RFC 9068 access tokens for the tools that the broker executes itself (docs/api.md).

One says who the user is, which agents act and within which task. It permits nothing: every call is decided like an exchange.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from cab.protocol.drafts import SUB_PROFILE_AI_AGENT
from cab.protocol.jose.jws import Rules, TokenRejected, VerifiedClaims
from cab.protocol.names import ACCESS_TOKEN_TYP, TASK_TYPE
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import Assertion, actor_claim
from cab.values import immutable

MAX_LIFE: Final = timedelta(seconds=300)


@immutable
class CallToken:
    """A verified call token. `assertion` is the word on its user that it was made from, as of this agent.

    `intents` are the only ones its calls may declare, None when nothing bounds them (an ID-JAG may carry some).
    """

    assertion: Assertion
    agent: str
    scopes: tuple[str, ...]
    jti: str
    jkt: str | None
    expires_at: datetime
    intents: tuple[dict[str, Any], ...] | None = None


def claims(
    assertion: Assertion,
    *,
    issuer: str,
    audience: str,
    agent: str,
    scopes: tuple[str, ...],
    intents: tuple[dict[str, Any], ...] | None,
    jti: str,
    now: datetime,
    expires_at: datetime,
    jkt: str | None,
) -> dict[str, Any]:
    """RFC 9068 section 2.2; the user's claims as in an assertion, the front end that logged the user in as `front_end`."""
    content = assertion.claims(audience=audience, sts_issuer=issuer)
    content.pop("may_act")
    content.pop("cnf", None)
    content |= {
        "iss": issuer,
        "client_id": agent,
        "front_end": assertion.front_end,
        "act": actor_claim((agent, *assertion.chain), issuer, sub_profile=SUB_PROFILE_AI_AGENT),
        "scope": " ".join(scopes),
        "iat": int(now.timestamp()),
        "exp": int(expires_at.timestamp()),
        "jti": jti,
    }
    if intents is not None:
        content["authorization_details"] = [*content.get("authorization_details", []), *intents]
    if jkt is not None:
        content["cnf"] = {"jkt": jkt}
    return content


def rules(issuer: str, audience: str) -> Rules:
    return Rules(
        typ=frozenset({ACCESS_TOKEN_TYP}),
        algorithms=frozenset({"ES256"}),
        issuer=issuer,
        audiences=frozenset({audience}),
        max_life=MAX_LIFE,
    )


def read(verified: VerifiedClaims) -> CallToken:
    """Raises TokenRejected: even our own signature does not excuse a malformed claim."""
    content = dict(verified.claims)
    agent, act = verified.text("client_id"), content.get("act")
    if not isinstance(act, dict) or act.get("sub") != agent:
        raise TokenRejected("act is not of client_id")
    details = content.pop("authorization_details", [])
    if not isinstance(details, list) or not all(isinstance(item, dict) for item in details):
        raise TokenRejected("authorization_details is malformed")
    tasks = [item for item in details if item.get("type") == TASK_TYPE]
    intents = tuple(item for item in details if item.get("type") != TASK_TYPE)
    content["client_id"] = verified.text("front_end")
    content["may_act"] = {"sub": agent}
    content["act"] = act.get("act")
    if tasks:
        content["authorization_details"] = tasks
    user = VerifiedClaims(
        content,
        verified.issuer,
        expires_at=verified.expires_at,
        issued_at=verified.issued_at,
        checked_at=verified.checked_at,
    )
    assertion = assertions.read(user)
    return CallToken(
        assertion=assertion,
        agent=agent,
        scopes=tuple(verified.text("scope").split(" ")),
        jti=assertion.jti,
        jkt=assertion.jkt,
        expires_at=verified.expires_at,
        intents=intents or None,
    )
