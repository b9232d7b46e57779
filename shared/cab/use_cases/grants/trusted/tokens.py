"""Access tokens without a consent screen: the organisation approved, an explicit map says who a user is (docs/grants.md).

There is no refresh token, so nothing is stored but the grant's document: it makes the access visible and revocable. Tokens
live in memory only, each for one user and one set of scopes.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from cab.domain import audit
from cab.domain.configured.connections import Connection, Provider, RotationClass
from cab.domain.configured.deployment import Broker
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import NO_TOKENS, PRODUCTION_TIMINGS, Grant, RefreshOutcome, Timings, grant_id
from cab.ports import AccessToken, Clock, Randomness, SecretReader, Unavailable, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.tokens import subject_tokens
from cab.protocol.tokens.assertions import Assertion
from cab.protocol.tokens.subject_tokens import Statement
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.outbox import APPROVED, Outbox, grant_event
from cab.use_cases.grants.kept_tokens import KeptTokens
from cab.use_cases.grants.trusted.requests import TrustedRequest, TrustedRequests
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verify_token import verify_token
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.servable import check_not_ended
from cab.use_cases.upstream.users import statement_about, upstream_user


class _Key(NamedTuple):
    """What a token is good for. `about` is what our STS told the provider of the user and the agents, where it did."""

    grant_id: str
    life: tuple[datetime, int]  # `Grant.life`
    scopes: frozenset[str]
    about: str


class TrustedTokens:
    def __init__(
        self,
        broker: Broker,
        store: Grants,
        calls: ProviderCalls,
        assertion_keys: SecretReader,
        own_keys: VerificationKeys,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
    ) -> None:
        self._issuer = broker.sts_issuer
        self._store = store
        self._own_keys = own_keys
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._timings = timings
        self._request = TrustedRequests(calls, assertion_keys, clock, randomness, timings)
        self._tokens: KeptTokens[_Key] = KeptTokens(clock)

    async def access_token(
        self,
        assertion: Assertion,
        connection: Connection,
        provider: Provider,
        scopes: tuple[str, ...],
        *,
        provider_subject_token: str | None,
        rejected: str | None = None,
    ) -> AccessToken:
        """A token of the assertion's subject, for exactly these scopes where the provider lets one ask.

        Raises: BrokerError GRANT_MISSING, GRANT_NEEDS_REAUTH, GRANT_REVOKED, SUBJECT_TOKEN_INVALID, SCOPE_NOT_GRANTABLE,
        PROVIDER_UNAVAILABLE; Unavailable.
        """
        user = upstream_user(connection, assertion)
        statement = statement_about(connection, provider, assertion, scopes, issuer=self._issuer)
        if statement is not None:
            await self._check(provider_subject_token, statement)
        grant = await self._grant(assertion, connection, provider)
        about = "" if statement is None else statement.about
        key = _Key(grant.grant_id, grant.life, frozenset(scopes), about)
        granted, outcome = self._tokens.get(key, rejected=rejected), RefreshOutcome.CACHED
        if granted is None:
            asked = TrustedRequest(
                connection, provider, user, scopes, None if statement is None else provider_subject_token
            )
            granted, outcome = await self._tokens.fetch(key, lambda: self._request(asked))
            await self._check_again(key)
        return AccessToken(
            access_token=granted.access_token,
            expires_at=granted.expires_at,
            scopes=granted.scopes,
            narrowed=granted.narrowed,
            grant_id=grant.grant_id,
            seq=grant.seq,
            secret_version=grant.secret_version,
            outcome=outcome.value,
            renew_at=granted.usable_until,
            works_until=granted.expires_at,
        )

    # --- the token that our STS vouches with ---

    async def _check(self, token: str | None, statement: Statement) -> None:
        """Ours, for this provider, of this user and exchange: whoever may call here cannot swap one user for another."""
        try:
            rules = subject_tokens.rules(statement)
            verified = await verify_token(jws.parse(token or ""), rules, self._own_keys, now=self._clock.now())
        except jws.TokenRejected as error:
            raise _foreign(error, token) from error
        if not subject_tokens.says(verified, statement):
            raise _foreign("its claims are not of this user and exchange", token)

    # --- the grant's document ---

    async def _grant(self, assertion: Assertion, connection: Connection, provider: Provider) -> Grant:
        """The user's grant, made at first use. Raises: BrokerError GRANT_REVOKED; Unavailable."""
        name = grant_id(assertion.tenant, assertion.subject, connection.id)
        stored = await self._store.read(name) or await self._create(name, assertion, connection, provider)
        stored = stored or await self._store.read(name)  # another request was faster
        if stored is None:
            raise Unavailable("documents")
        check_not_ended(stored.grant)
        if stored.grant.keeps_tokens:
            await self._have_tokens_ended(stored)
        return stored.grant

    async def _have_tokens_ended(self, stored: StoredGrant) -> None:
        """The user consented here before the organisation approved: the sweeper revokes the tokens of the earlier consent."""
        soon = self._clock.now() + self._timings.visit_again
        if stored.grant.due_at is None or stored.grant.due_at > soon:
            await self._store.replace(stored, stored.grant.model_copy(update={"due_at": self._clock.now()}))

    async def _create(
        self, name: str, assertion: Assertion, connection: Connection, provider: Provider
    ) -> StoredGrant | None:
        now = self._clock.now()
        grant = Grant(
            grant_id=name,
            tenant=assertion.tenant,
            subject=assertion.subject,
            connection=connection.id,
            provider=provider.id,
            provider_class=RotationClass.STATIC,
            secret_version=NO_TOKENS,
            connected_at=now,
            due_at=now,
        )
        event = grant_event(
            audit.EventType.GRANT_CONNECTED,
            grant,
            cause=APPROVED,
            now=now,
            randomness=self._randomness,
            txn=assertion.txn,
        )
        created = await self._store.create(grant.model_copy(update={"outbox": [event]}))
        return None if created is None else await self._outbox.flush(created)

    async def _check_again(self, key: _Key) -> None:
        """What was revoked while the provider was asked stays in here. Raises: as `_grant`."""
        stored = await self._store.read(key.grant_id)
        if stored is None:
            raise Unavailable("documents")
        check_not_ended(stored.grant)
        # Ended and allowed again, forgotten and made anew, or the tokens of a consent put away.
        if stored.grant.life != key.life:
            raise BrokerError(
                Reason.PROVIDER_UNAVAILABLE, "The access was changed meanwhile.", remedy=Remedy(retry_after_s=1)
            )


def _foreign(cause: Exception | str, token: str | None) -> BrokerError:
    detail = "The token for the provider is not of this user and exchange."
    return credential_refused(Reason.SUBJECT_TOKEN_INVALID, detail, cause, token=token)
