"""Narrowing by exchange: a token with the scopes of one action, made from the grant's own, which never leaves refresh_grants.

The grant's access token is the subject token of an RFC 8693 request (`token_exchange`), or the assertion of Microsoft Entra's
on-behalf-of request (`on_behalf_of`). docs/grants.md, "Narrowing by exchange".
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final, NamedTuple

from cab.domain.configured.deployment import Broker
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import ENDED, PRODUCTION_TIMINGS, RefreshOutcome, Timings
from cab.ports import AccessToken, Clock
from cab.protocol import names
from cab.stores.grants import Grants
from cab.use_cases.grants.kept_tokens import KeptTokens
from cab.use_cases.grants.refresh.attempt import Wanted
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.upstream.answers import Granted, UserRefused, Wish, read_answer, sent_in_time, unavailable
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.servable import has_ended

_logger = logging.getLogger(__name__)

# RFC 8693 section 2.2.2 has invalid_request for a subject token that is not accepted; others say what RFC 6749 or 6750 do.
_TOKEN_REFUSED: Final = frozenset({"invalid_request", "invalid_grant", "invalid_token"})
_CONSENT_LACKS: Final = frozenset({"invalid_grant", "interaction_required", "consent_required"})
_PRESENTED: Final = 2  # wide tokens tried in one request: a refresh elsewhere may have ended the first


class _Key(NamedTuple):
    """What a narrow token depends on. A rotated or renewed grant has another secret version, a revoked one another epoch."""

    grant_id: str
    revoke_epoch: int
    secret_version: int
    scopes: frozenset[str]


class NarrowTokens:
    """Narrow tokens live in memory only; every one is handed out behind the state of its grant, read in the same request."""

    def __init__(
        self,
        broker: Broker,
        store: Grants,
        refresher: RefreshGrant,
        calls: ProviderCalls,
        clock: Clock,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
    ) -> None:
        self._broker = broker
        self._store = store
        self._refresher = refresher
        self._calls = calls
        self._clock = clock
        self._timings = timings
        self._tokens: KeptTokens[_Key] = KeptTokens(clock)

    async def access_token(self, grant_id: str, wanted: Wanted) -> AccessToken:
        """A token with the wanted scopes, and no others unless the connection accepts them, that lives no longer than the
        grant's own.

        Raises: BrokerError as `RefreshGrant.access_token` does, and GRANT_NEEDS_REAUTH when the provider does not accept the
        user for these scopes; Unavailable.
        """
        answer_by = self._clock.now() + self._timings.answer_within
        epoch = await self._revoke_epoch(grant_id)  # before the wide token is read: what is revoked later, is noticed
        connection = wanted.connection
        of_grant = Wanted(connection.needed_of_grant(wanted.scopes), connection, wanted.provider)
        refused: int | None = None
        for _ in range(_PRESENTED):
            wide = await self._refresher.access_token(grant_id, of_grant)
            if wide.secret_version == refused:
                break
            key = _Key(grant_id, epoch, wide.secret_version, frozenset(wanted.scopes))
            try:
                granted, outcome = await self._granted(key, wide.access_token, wanted, answer_by)
            except UserRefused as refusal:
                _logger.warning("narrowing at %s refused: %s", connection.id, refusal.code)
                refused = wide.secret_version
                continue
            if granted.access_token == wide.access_token and not wide.narrowed:
                raise BrokerError(
                    Reason.SCOPE_NOT_GRANTABLE, "The connected system gave back the token that it was asked to narrow."
                )
            return _narrow(wide, granted, wanted, outcome)
        # Not written into the grant: its refresh token has just worked. See docs/grants.md.
        raise BrokerError(
            Reason.GRANT_NEEDS_REAUTH,
            "The connected system does not accept this user for these scopes: consent is missing, or the user must log in there.",
            remedy=Remedy(interaction_uri=self._broker.connect_uri(connection.id)),
        )

    async def _granted(
        self, key: _Key, wide_token: str, wanted: Wanted, answer_by: datetime
    ) -> tuple[Granted, RefreshOutcome]:
        granted = self._tokens.get(key, rejected=wanted.rejected)
        if granted is not None:
            return granted, RefreshOutcome.CACHED
        granted, outcome = await self._tokens.fetch(key, lambda: self._ask(wide_token, wanted, answer_by))
        await self._check_again(key, wanted)
        return granted, outcome

    async def _ask(self, wide_token: str, wanted: Wanted, answer_by: datetime) -> Granted:
        """Raises: UserRefused; BrokerError SCOPE_NOT_GRANTABLE, PROVIDER_UNAVAILABLE; Unavailable."""
        connection, provider = wanted.connection, wanted.provider
        sent_at = self._clock.now()
        longest = min(self._timings.provider_timeout, answer_by - sent_at)
        if longest < self._timings.shortest_send:
            raise unavailable(None)
        on_behalf_of = provider.narrowing == "on_behalf_of"
        sending = self._calls.present(
            connection,
            provider,
            _on_behalf_of_form(wide_token, wanted) if on_behalf_of else _exchange_form(wide_token, wanted),
            with_client=on_behalf_of or provider.narrowing_request.client_authentication,
            timeout_s=longest.total_seconds(),
        )
        answer = await sent_in_time(sending, longest=longest)
        refusals = frozenset(provider.invalid_grant_errors) | (_CONSENT_LACKS if on_behalf_of else _TOKEN_REFUSED)
        return read_answer(answer, Wish(connection, provider, wanted.scopes, wanted.scopes, refusals), sent_at)

    # --- the grant's state ---

    async def _revoke_epoch(self, grant_id: str) -> int:
        stored = await self._store.read(grant_id)
        return 0 if stored is None else stored.grant.revoke_epoch

    async def _check_again(self, key: _Key, wanted: Wanted) -> None:
        """What was revoked while the provider was asked stays in here. Raises: BrokerError GRANT_REVOKED; Unavailable."""
        stored = await self._store.read(key.grant_id)
        if stored is None or stored.grant.revoke_epoch != key.revoke_epoch or stored.grant.status in ENDED:
            raise has_ended(self._broker.connect_uri(wanted.connection.id))


def _exchange_form(wide_token: str, wanted: Wanted) -> dict[str, str]:
    """RFC 8693 section 2.1. No `actor_token`: the token is for the user's own client, as the wide one is."""
    form = {
        "grant_type": names.TOKEN_EXCHANGE,
        "requested_token_type": names.ACCESS_TOKEN_TYPE,
        "subject_token": wide_token,
        "subject_token_type": names.ACCESS_TOKEN_TYPE,
    }
    if wanted.provider.narrowing_request.resource:
        form["resource"] = wanted.connection.resource
    return form | _scope(wanted)


def _on_behalf_of_form(wide_token: str, wanted: Wanted) -> dict[str, str]:
    """Microsoft identity platform, "OAuth 2.0 On-Behalf-Of flow", first case. Without offline_access: no refresh token."""
    form = {"grant_type": names.JWT_BEARER, "assertion": wide_token, "requested_token_use": "on_behalf_of"}
    return form | _scope(wanted)


def _scope(wanted: Wanted) -> dict[str, str]:
    return {"scope": wanted.provider.scope_separator.join(wanted.scopes)} if wanted.scopes else {}


def _narrow(wide: AccessToken, granted: Granted, wanted: Wanted, outcome: RefreshOutcome) -> AccessToken:
    silent = set(wanted.provider.base_scopes) - set(wanted.scopes)
    return AccessToken(
        access_token=granted.access_token,
        expires_at=granted.expires_at if wide.expires_at is None else min(granted.expires_at, wide.expires_at),
        scopes=tuple(scope for scope in granted.scopes if scope not in silent),
        narrowed=granted.narrowed,
        grant_id=wide.grant_id,
        seq=wide.seq,
        secret_version=wide.secret_version,
        outcome=outcome.value,
        renew_at=_earliest(granted.usable_until, wide.renew_at),
        works_until=_earliest(granted.expires_at, wide.works_until or wide.expires_at),
    )


def _earliest(first: datetime, second: datetime | None) -> datetime:
    return first if second is None else min(first, second)
