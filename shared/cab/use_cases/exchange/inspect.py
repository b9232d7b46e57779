"""Introspection (RFC 7662) and revocation (RFC 7009) of what this broker issued: its own JWTs and pass-through tokens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cab.domain import audit
from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.identifiers import token_sha256
from cab.ports import Clock, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.tokens import access_tokens
from cab.stores.issued_tokens import IssuedToken, IssuedTokens
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.exchange.request import inspected_token
from cab.use_cases.identity.authenticate_client import ClientAuthenticator, Credentials, Spending, after_spending
from cab.use_cases.identity.verify_token import verify_token

INACTIVE: Mapping[str, Any] = {"active": False}


class _TokenLookup:
    """What both endpoints share: who asks, and which of our tokens is meant."""

    def __init__(
        self,
        deployment: Deployment,
        authenticator: ClientAuthenticator[Agent],
        keys: VerificationKeys,
        issued_tokens: IssuedTokens,
        clock: Clock,
    ) -> None:
        self._deployment = deployment
        self._authenticator = authenticator
        self._keys = keys
        self._issued_tokens = issued_tokens
        self._clock = clock
        self._audiences = frozenset(connection.resource for connection in deployment.connections)

    async def _broker_jwt(self, token: str) -> Mapping[str, Any] | None:
        """The claims of a live JWT of ours, else None."""
        issuer = self._deployment.broker.sts_issuer
        rules = access_tokens.rules(
            issuer, self._audiences, max_life=timedelta(seconds=self._deployment.broker.lifetimes.token_s)
        )
        try:
            unverified = jws.parse(token)
            jws.check_issuer(unverified, rules)  # for a token of others no key is looked up
            verified = await verify_token(unverified, rules, self._keys, now=self._clock.now())
            return verified.claims if verified.expires_at > self._clock.now() else None
        except jws.TokenRejected:
            return None

    async def _downstream(self, token: str) -> list[IssuedToken]:
        """To whom a pass-through token was handed out, the newest first."""
        return await self._issued_tokens.find(token_sha256(token), now=self._clock.now())

    async def _begin(self, credentials: Credentials, facts: Facts) -> tuple[Agent, Spending]:
        agent, spending = await self._authenticator.authenticate(credentials)
        facts.client_authenticated = True
        facts.tenant = agent.tenant
        facts.actor = audit.Actor(client_id=agent.client_id)
        return agent, spending


class IntrospectToken(_TokenLookup):
    async def __call__(self, form: dict[str, str], credentials: Credentials, facts: Facts) -> dict[str, Any]:
        """RFC 7662 section 2.2. Unknown, expired, revoked and somebody else's are all exactly `{"active": false}`."""
        agent, spending = await self._begin(credentials, facts)
        return await after_spending(spending, self._introspect(form, agent))

    async def _introspect(self, form: dict[str, str], agent: Agent) -> dict[str, Any]:
        token = inspected_token(form)
        claims = await self._broker_jwt(token)
        if claims is not None:
            may_see = claims["client_id"] == agent.client_id or claims["aud"] in agent.introspects
            if claims["tenant"] != agent.tenant or not may_see:
                return dict(INACTIVE)
            if await self._issued_tokens.revoked_at(claims["jti"]) is not None:
                return dict(INACTIVE)
            token_type = "DPoP" if "cnf" in claims else "Bearer"
            return {"active": True, "token_type": token_type, **claims}
        issued = next((item for item in await self._downstream(token) if self._may_see(item, agent)), None)
        if issued is None:
            return dict(INACTIVE)
        revoked_at = await self._issued_tokens.revoked_at(token_sha256(token))
        if revoked_at is not None and issued.issued_at <= revoked_at:
            return dict(INACTIVE)
        return {
            "active": True,
            "token_type": "Bearer",
            "iss": self._deployment.broker.sts_issuer,
            "sub": issued.subject,
            "client_id": issued.client_id,
            "aud": self._deployment.connection_by_id[issued.connection].resource,
            "scope": issued.scope,
            "authorization_details": issued.details,
            "act": issued.act,
            "txn": issued.txn,
            "tenant": issued.tenant,
            "iat": _seconds(issued.issued_at),
            "exp": _seconds(issued.expires_at),
        }

    def _may_see(self, issued: IssuedToken, agent: Agent) -> bool:
        connection = self._deployment.connection_by_id.get(issued.connection)
        if connection is None or issued.tenant != agent.tenant:
            return False
        return issued.client_id == agent.client_id or connection.resource in agent.introspects


class RevokeToken(_TokenLookup):
    async def __call__(self, form: dict[str, str], credentials: Credentials, facts: Facts) -> None:
        """RFC 7009 section 2.2: an empty 200, also for a token that is unknown, dead or another client's (which stays alive).

        A broker JWT is denylisted by `jti` until its end: introspection shows it at once, resources that only check our
        keys accept it until `exp`. For a pass-through token every hand-out so far ends, whoever it was given to; the user's
        grant is not touched. The platform may give the same token again: that hand-out is decided and audited anew.
        """
        agent, spending = await self._begin(credentials, facts)
        await after_spending(spending, self._revoke(form, agent, facts))

    async def _revoke(self, form: dict[str, str], agent: Agent, facts: Facts) -> None:
        token = inspected_token(form)
        claims = await self._broker_jwt(token)
        if claims is not None:
            if claims["client_id"] == agent.client_id and claims["tenant"] == agent.tenant:
                until = datetime.fromtimestamp(claims["exp"], tz=UTC)
                await self._issued_tokens.revoke(claims["jti"], now=self._clock.now(), until=until)
                subject = self._deployment.connection_by_resource[claims["aud"]].subject_of(claims["sub"])
                facts.subject = None if subject is None else audit.Subject(key=subject)
                facts.txn = claims["txn"]
            return
        hand_outs = await self._downstream(token)
        issued = next((item for item in hand_outs if _is_of(item, agent)), None)
        if issued is not None:
            # The last hand-out to end decides, and one that another instance's clock dates later is meant too.
            until = max(item.expires_at for item in hand_outs)
            now = max(self._clock.now(), *(item.issued_at for item in hand_outs))
            await self._issued_tokens.revoke(token_sha256(token), now=now, until=until)
            facts.subject = audit.Subject(key=issued.subject)
            facts.grant = audit.GrantFacts(id=issued.grant_id)
            facts.txn = issued.txn


def _is_of(issued: IssuedToken, agent: Agent) -> bool:
    return (issued.tenant, issued.client_id) == (agent.tenant, agent.client_id)


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())
