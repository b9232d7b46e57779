"""The last step of an exchange: the platform's own token for that user, or a JWT of ours that the resource can verify."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection, GrantKind, Provider
from cab.domain.configured.deployment import Deployment
from cab.domain.grant_transitions import use_is_noted
from cab.domain.grants import Grant, grant_id
from cab.domain.identifiers import token_sha256
from cab.domain.lru import remember
from cab.domain.token_life import handed_out_until
from cab.first_word import first_word
from cab.ports import AccessToken, Clock, Foretell, ForetoldToken, GrantTokens, Randomness, Signer, Unavailable
from cab.protocol import names
from cab.protocol.tokens import access_tokens, subject_tokens
from cab.protocol.tokens.assertions import Assertion
from cab.protocol.tokens.subject_tokens import Statement
from cab.stores.grants import Grants
from cab.use_cases.audit.waits import waiting_for
from cab.use_cases.upstream.servable import check_servable
from cab.use_cases.upstream.users import statement_about
from cab.values import immutable

CACHE_SIZE: Final = 4096


@immutable
class Issued:
    """A token on its way out. By `sha256` and `jti` audit and stores name it; the token itself goes nowhere else.

    `arriving`: the token is empty still. It can be lost no more, so that it may be recorded; whether it may leave that tells.
    """

    token: str
    sha256: str
    kind: str  # "downstream" or "broker_jwt"
    expires_at: datetime
    scopes: tuple[str, ...]
    narrowed: bool | None
    jti: str | None = None
    grant_id: str | None = None
    grant_seq: int | None = None
    secret_version: int | None = None
    jkt: str | None = None
    arriving: Callable[[], Awaitable[str]] | None = None

    def __repr__(self) -> str:
        return f"Issued(kind={self.kind!r})"

    async def arrived(self) -> Issued:
        """With the token. Raises: BrokerError GRANT_*, PROVIDER_UNAVAILABLE; Unavailable."""
        return self if self.arriving is None else replace(self, token=await self.arriving(), arriving=None)


class BrokerTokens:
    """RFC 9068 tokens for connections that trust our JWKS."""

    def __init__(self, deployment: Deployment, signer: Signer, clock: Clock, randomness: Randomness) -> None:
        self._deployment = deployment
        self._signer = signer
        self._clock = clock
        self._randomness = randomness

    async def issue(
        self,
        connection: Connection,
        assertion: Assertion,
        agent: Agent,
        *,
        scopes: tuple[str, ...],
        details: list[dict[str, Any]],
        txn: str,
        jkt: str | None,
    ) -> Issued:
        now = self._clock.now()
        # Not shortened by the assertion's own end: the decision was made now, and clients need at least 240 s.
        expires_at = now.replace(microsecond=0) + timedelta(seconds=self._deployment.broker.lifetimes.token_s)
        jti = self._randomness.token(16)
        claims = access_tokens.claims(
            assertion,
            issuer=self._deployment.broker.sts_issuer,
            audience=connection.resource,
            subject=connection.user_map.get(assertion.subject, assertion.subject),
            agent=agent.client_id,
            scope=" ".join(scopes),
            details=details,
            txn=txn,
            jti=jti,
            now=now,
            expires_at=expires_at,
            jkt=jkt,
        )
        token = await self._signer.sign(claims, typ=names.ACCESS_TOKEN_TYP)
        return Issued(token, token_sha256(token), "broker_jwt", expires_at, scopes, narrowed=True, jti=jti, jkt=jkt)


@immutable
class _Remembered:
    token: AccessToken
    sha256: str
    # `Grant.life`; None where the request made the grant: then it is nobody's to hand out again.
    life: tuple[datetime, int] | None


class DownstreamTokens:
    """The platform's own tokens. Grant secrets stay with refresh_grants; here live only access tokens, in memory.

    A remembered token is handed out only behind the grant's status in Firestore (read on every exchange; an operator may
    keep that answer for `grant_status_cache_s`).
    """

    def __init__(
        self,
        deployment: Deployment,
        grants: Grants,
        refresher: GrantTokens,
        signer: Signer,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._grants = grants
        self._refresher = refresher
        self._signer = signer
        self._clock = clock
        self._randomness = randomness
        self._tokens: OrderedDict[tuple[str, tuple[str, ...], str], _Remembered] = OrderedDict()
        self._statuses: OrderedDict[str, tuple[datetime, Grant]] = OrderedDict()
        self._status_life = timedelta(seconds=deployment.broker.grant_status_cache_s)

    async def read_grant(self, connection: Connection, assertion: Assertion, *, fresh: bool = False) -> Grant | None:
        """The grant of this user, for `issue`. Started before the decision's writes are awaited: one round trip, not two.

        `fresh`: not one that an operator lets pass for a while.
        """
        name = grant_id(assertion.tenant, assertion.subject, connection.id)
        if not self._status_life:
            stored = await self._grants.read(name)
            return None if stored is None else stored.grant
        now = self._clock.now()
        known = self._statuses.get(name)
        # From then on: a clock that was fast may have been set back since.
        if known is not None and not fresh and known[0] <= now < known[0] + self._status_life:
            return known[1]
        stored = await self._grants.read(name)
        if stored is None:
            return None
        remember(self._statuses, name, (now, stored.grant), most=CACHE_SIZE)
        return stored.grant

    async def issue(
        self,
        connection: Connection,
        grant: Grant | None,
        assertion: Assertion,
        *,
        subject_assertion: Callable[[], Awaitable[str]],
        scopes: tuple[str, ...],
        rejected: str | None = None,
    ) -> Issued:
        """`subject_assertion` is made only where refresh_grants is asked.

        `rejected` is the SHA-256 (hex) of a token that the platform has just refused.

        Raises: BrokerError GRANT_MISSING, GRANT_NEEDS_REAUTH, GRANT_REVOKED with where to reconnect; Unavailable."""
        provider = self._deployment.provider_of(connection)
        self.check_servable(connection, grant)
        issuer = self._deployment.broker.sts_issuer
        statement = statement_about(connection, provider, assertion, scopes, issuer=issuer)
        about = statement.about if statement else ""  # e.g. groups: the token is not for the same user with others
        name = grant.grant_id if grant else grant_id(assertion.tenant, assertion.subject, connection.id)
        key = (name, scopes, about)
        remembered, now = self._tokens.get(key), self._clock.now()
        is_rejected = rejected is not None and remembered is not None and remembered.sha256 == rejected
        if is_rejected or grant is None or (remembered and not self._still_good(remembered, grant, provider, now)):
            remembered = None

        async def ask(foretell: Foretell | None = None) -> _Remembered:
            signed = None if statement is None else await self._signed(statement)
            token = await self._refresher.access_token(
                subject_assertion=await subject_assertion(),
                connection=connection.id,
                scopes=scopes,
                txn=assertion.txn,
                provider_subject_token=signed,
                rejected_token_sha256=rejected,
                foretell=foretell,
            )
            sha256 = token_sha256(token.access_token)
            asked = _Remembered(token, sha256, None if grant is None else grant.life)
            remember(self._tokens, key, asked, most=CACHE_SIZE)
            return asked

        if remembered is None:
            with waiting_for("refresh"):
                return await self._foretold(ask, provider)
        if grant is not None and not use_is_noted(grant, now):
            with waiting_for("refresh"), suppress(Unavailable):  # then only today's use is not on record yet
                remembered = await ask()
        return self._issued(remembered.token, remembered.sha256, provider, remembered.token.access_token)

    async def _foretold(
        self, ask: Callable[[Foretell], Coroutine[Any, Any, _Remembered]], provider: Provider
    ) -> Issued:
        """As soon as refresh_grants says what its token will be; where it does not, when the token is here."""
        foretold, asking = await first_word(ask)
        if foretold is None:
            asked = await asking
            return self._issued(asked.token, asked.sha256, provider, asked.token.access_token)

        async def arriving() -> str:
            asked = await asking
            if asked.token.foretold() != foretold:
                raise Unavailable("grants")  # another's: it is not what the record names
            return asked.token.access_token

        return replace(self._issued(foretold, foretold.sha256, provider, ""), arriving=arriving)

    def _issued(self, said: AccessToken | ForetoldToken, sha256: str, provider: Provider, token: str) -> Issued:
        return Issued(
            token,
            sha256,
            "downstream",
            self._handed_out_until(said, provider),
            said.scopes,
            narrowed=said.narrowed,
            grant_id=said.grant_id,
            grant_seq=said.seq,
            secret_version=said.secret_version,
        )

    async def _signed(self, statement: Statement) -> str:
        """Our word on who the user is, for one provider alone: the key that signs it is only here."""
        claims = subject_tokens.claims(statement, jti=self._randomness.token(16), now=self._clock.now())
        return await self._signer.sign(claims, typ=statement.typ)

    def check_servable(self, connection: Connection, grant: Grant | None) -> None:
        """Raises: BrokerError GRANT_MISSING, GRANT_NEEDS_REAUTH, GRANT_REVOKED."""
        connect_uri = self._deployment.broker.connect_uri(connection.id)
        check_servable(grant, is_trusted=connection.grant_kind.is_trusted, connect_uri=connect_uri)

    def _still_good(self, remembered: _Remembered, grant: Grant, provider: Provider, now: datetime) -> bool:
        token = remembered.token
        if remembered.life != grant.life:
            return False
        # Where a refresh may end older access tokens, only the newest one is handed out.
        if token.secret_version != grant.secret_version and provider.rotation.old_access_token != "lives_on":
            return False
        renew_at = token.renew_at or _planned_renewal(token, provider)
        return renew_at is None or now < renew_at

    def _handed_out_until(self, token: AccessToken | ForetoldToken, provider: Provider) -> datetime:
        """Not past the token's end, nor past a refresh of ours that may end it: see `cab.domain.token_life`."""
        now = self._clock.now()
        if token.expires_at is None:
            return now + timedelta(seconds=provider.access_token_lifetime_s or 300)
        works_until = token.works_until or _planned_renewal(token, provider) or token.expires_at
        return handed_out_until(provider, works_until, token.expires_at, now)


def _planned_renewal(token: AccessToken | ForetoldToken, provider: Provider) -> datetime | None:
    """Of a token whose giver did not say when it renews it."""
    return None if token.expires_at is None else token.expires_at - timedelta(seconds=provider.refresh_margin_s)


def is_broker_jwt(connection: Connection) -> bool:
    return connection.grant_kind is GrantKind.BROKER_JWT
