"""What an identity provider says of a person after the login: verified, recorded, in force on all instances at once.

Logins end for every assertion and session made from them; an account that is closed ends those to come as well, and, where the
entry says so, its grants. Everything here may be repeated: a transmitter sends again what was not acknowledged.
"""

from __future__ import annotations

import asyncio

from cab.domain import audit
from cab.domain.configured.deployment import Deployment, IdentityProvider, SharedSignals, signals_source
from cab.domain.errors import BrokerError, Reason
from cab.domain.identifiers import subject_key
from cab.ports import Clock, GrantTokens, NotFound, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.jose.jws import TokenRejected, UnverifiedToken
from cab.protocol.tokens import security_events
from cab.protocol.tokens.security_events import SecurityEvent, SignalEffect
from cab.stores.grants import Grants
from cab.stores.people.departures import Departure, Departures
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.identity.refused_credentials import credential_refused


class ReceiveSignals:
    def __init__(
        self,
        deployment: Deployment,
        *,
        keys: VerificationKeys,
        departures: Departures,
        grants: Grants,
        grant_tokens: GrantTokens,
        clock: Clock,
    ) -> None:
        # One transmitter may serve several: an Okta organisation those of all its authorization servers.
        self._senders: dict[str, list[tuple[IdentityProvider, SharedSignals]]] = {}
        for it in deployment.identity_providers:
            if it.shared_signals is not None:
                self._senders.setdefault(it.shared_signals.issuer or it.issuer, []).append((it, it.shared_signals))
        self._keys = keys
        self._departures = departures
        self._grants = grants
        self._grant_tokens = grant_tokens
        self._clock = clock

    async def __call__(self, token: str, facts: Facts) -> None:
        """Raises: BrokerError SUBJECT_TOKEN_INVALID, one answer for every fault of the token; Unavailable: it is sent again."""
        try:
            parsed, believed = await self._verified(token)
            said = [
                (provider, signals, security_events.read(parsed.claims, provider, now=self._clock.now()))
                for provider, signals in believed
            ]
        except (TokenRejected, NotFound) as error:
            raise credential_refused(
                Reason.SUBJECT_TOKEN_INVALID, "The security event token is not valid.", error, token=token
            ) from error
        facts.client_authenticated = True
        for provider, signals, events in said:
            facts.tenant = provider.tenant
            facts.tool = audit.Tool(action=",".join(it.name for it in events))
            for event in events:
                if event.idp_subject is not None and event.effect is not SignalEffect.NONE:
                    subject = subject_key(provider.tenant, provider.issuer, event.idp_subject)
                    facts.subject = audit.Subject(key=subject, idp_issuer=provider.issuer)
                    await self._apply(event, subject, provider, signals, facts)

    async def _verified(self, token: str) -> tuple[UnverifiedToken, list[tuple[IdentityProvider, SharedSignals]]]:
        """The token, and for which entries it is good: all whose audience and keys it has. Raises: TokenRejected, NotFound."""
        parsed = jws.parse(token, allowed_headers=jws.CERTIFICATE_HEADERS)
        believed: list[tuple[IdentityProvider, SharedSignals]] = []
        refusal: TokenRejected | NotFound = TokenRejected("iss sends no events here")
        for provider, signals in self._senders.get(parsed.unverified_issuer, []):
            try:
                await self._check(parsed, provider, signals)
                believed.append((provider, signals))
            except (TokenRejected, NotFound) as error:
                refusal = error
        if not believed:
            raise refusal
        return parsed, believed

    async def _check(self, parsed: UnverifiedToken, provider: IdentityProvider, signals: SharedSignals) -> None:
        issuer = signals.issuer or provider.issuer
        rules = security_events.rules(issuer, signals.audience, provider.algorithms)
        jws.check_type(parsed, rules)
        jws.check_audience(parsed, rules)
        jws.check_issuer(parsed, rules)
        key = await self._keys.find(signals_source(provider), parsed.kid, parsed.algorithm)
        jws.check_signature(parsed, key, rules)

    async def _apply(
        self, event: SecurityEvent, subject: str, provider: IdentityProvider, signals: SharedSignals, facts: Facts
    ) -> None:
        closes = event.effect in (SignalEffect.CLOSES_ACCOUNT, SignalEffect.PURGES_ACCOUNT)
        if event.effect is SignalEffect.OPENS_ACCOUNT:
            said = Departure(opened_at=event.at)
        else:
            said = Departure(logins_until=event.at, closed_at=event.at if closes else None)
        await self._departures.note(provider.tenant, subject, said)
        if not closes:
            return
        named = "account_purged" if event.effect is SignalEffect.PURGES_ACCOUNT else "account_disabled"
        if named in signals.ends_grants and (await self._is_closed(provider.tenant, subject)):
            await self._end_grants(provider.tenant, subject, event, facts)

    async def _is_closed(self, tenant: str, subject: str) -> bool:
        """A late delivery must not end the grants of somebody who has come back since."""
        known = await self._departures.of(tenant, subject)
        return known is not None and known.is_closed

    async def _end_grants(self, tenant: str, subject: str, event: SecurityEvent, facts: Facts) -> None:
        stored = await self._grants.matching(equal={"tenant": tenant, "subject": subject})
        ended = (self._end(it.grant.grant_id, cause=event.name, txn=facts.txn or facts.context.txn) for it in stored)
        await asyncio.gather(*ended)

    async def _end(self, grant_id: str, *, cause: str, txn: str) -> None:
        try:
            await self._grant_tokens.revoke(grant_id=grant_id, cause=cause, txn=txn)
        except BrokerError as error:
            if error.reason is not Reason.GRANT_MISSING:  # gone since it was listed
                raise
