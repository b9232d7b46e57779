"""How long a platform's access token is handed out, and until when it certainly works: before its end comes our own next refresh.

Clients use a token for `expires_in`, and common ones take less than 225 s for expired already. So a token is renewed early
enough that whoever gets it has 240 s of it, where the provider lets the older token live on. Where a refresh ends the older
token, nobody can have both: then no more is promised than the time to our next refresh.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cab.domain.configured.connections import Provider
from cab.domain.grants import own_share
from cab.values import immutable

PROMISE: Final = timedelta(seconds=240)  # life that a token is handed out with, where tokens live longer than that
FIRST_USE: Final = timedelta(
    seconds=10
)  # a token just got is not renewed for so long, or all who waited would renew it
_SOMETHING: Final = timedelta(seconds=1)
KEPT_ALIVE_EARLIER: Final = (
    0.1  # by up to so much of the time that a refresh token may lie unused, each grant by its own share
)


@immutable
class TokenLife:
    """From `renew_at` on a new token is asked for first; until `works_until` nothing of ours ends this one."""

    renew_at: datetime
    works_until: datetime


def token_life(
    provider: Provider, *, received_at: datetime, expires_at: datetime, kept_alive_at: datetime | None = None
) -> TokenLife:
    """`kept_alive_at` is when the sweeper would refresh the grant for lying idle."""
    life = expires_at - received_at
    margin = min(timedelta(seconds=provider.refresh_margin_s), life / 2)
    if not spares_tokens(provider):
        renew_at = expires_at - margin if kept_alive_at is None else min(expires_at - margin, kept_alive_at)
        return TokenLife(renew_at, renew_at)
    return lone_token_life(provider, received_at=received_at, expires_at=expires_at)


def lone_token_life(provider: Provider, *, received_at: datetime, expires_at: datetime) -> TokenLife:
    """As `token_life`, of a token that no refresh ends."""
    life = expires_at - received_at
    margin = min(timedelta(seconds=provider.refresh_margin_s), life / 2)
    if life > PROMISE:
        margin = max(margin, PROMISE)
    return TokenLife(max(expires_at - margin, received_at + min(FIRST_USE, life / 2)), expires_at)


def spares_tokens(provider: Provider) -> bool:
    """Whether an access token still works for 240 s after a refresh of its grant."""
    rotation = provider.rotation
    if rotation.old_access_token == "dies_after_leeway":
        return timedelta(seconds=rotation.leeway_s) >= PROMISE
    return rotation.old_access_token == "lives_on"


def handed_out_until(provider: Provider, works_until: datetime, expires_at: datetime, now: datetime) -> datetime:
    """What `expires_in` may say of a token that leaves now: never nothing, and no more than is sure.

    A token that should have been renewed, and could not, is worth what is left of it. Where a refresh starts the end of older
    tokens, one for other scopes may come at any moment.
    """
    until = works_until if works_until > now else expires_at
    if provider.rotation.old_access_token == "dies_after_leeway":
        until = min(until, now + timedelta(seconds=provider.rotation.leeway_s))
    return max(until, now + _SOMETHING)


def keepalive(provider: Provider, grant_id: str) -> timedelta | None:
    """How long a grant lies unused before the sweeper refreshes it; None where its refresh token never idles out.

    Not equally long for all: grants that were connected together, or renewed together after an outage, would be refreshed together
    for ever.
    """
    if provider.keepalive_s is None:
        return None
    return timedelta(seconds=provider.keepalive_s * (1 - KEPT_ALIVE_EARLIER * own_share(grant_id)))
