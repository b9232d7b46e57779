"""What a provider's answer says to a request for a token with exact scopes: the token and what it is good for, or why there is none.

Nothing is kept of such an answer but the access token: a refresh token in it is dropped unread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import field
from datetime import datetime, timedelta
from typing import Final

from cab.domain.configured.connections import Connection, Provider
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.token_life import lone_token_life
from cab.ports import AnswerTooLarge, HttpAnswer, NotFound, SendFailed, Unavailable
from cab.protocol import names, token_refusals, token_responses
from cab.protocol.token_refusals import RefusalMeaning
from cab.protocol.token_responses import UNKNOWN_LIFETIME, TokenError
from cab.values import immutable

_logger = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 60
_PAUSE_S: Final = 2


@immutable
class Wish:
    """What a request asked for. `scopes` must be granted; `named` are those that the request could say.

    `refusals`: the error codes by which this provider says that it does not accept the user, or what was said of the user.
    """

    connection: Connection
    provider: Provider
    scopes: tuple[str, ...]
    named: tuple[str, ...]
    refusals: frozenset[str]


@immutable
class Granted:
    """An access token of the provider and what it is good for. `narrowed`: for nothing beyond the scopes asked for."""

    access_token: str = field(repr=False)
    scopes: tuple[str, ...]
    narrowed: bool
    expires_at: datetime
    usable_until: datetime  # from then on a new one is asked for


class UserRefused(Exception):
    """The provider looked at the request and said no to this user: what helps depends on who vouched for the user.

    `code` is one of the wish's refusals, or "claims": never text of the provider's own.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def sent_in_time(sending: Awaitable[HttpAnswer], *, longest: timedelta) -> HttpAnswer:
    """The answer to a request that is sent once. Raises: BrokerError PROVIDER_UNAVAILABLE; Unavailable for what we lack."""
    try:
        async with asyncio.timeout(longest.total_seconds()):
            return await sending
    except (SendFailed, TimeoutError, AnswerTooLarge):
        raise unavailable(None) from None
    except NotFound as error:
        raise Unavailable("secrets") from error


def read_answer(answer: HttpAnswer, wish: Wish, sent_at: datetime) -> Granted:
    """Raises: UserRefused; BrokerError SCOPE_NOT_GRANTABLE, PROVIDER_UNAVAILABLE."""
    provider = wish.provider
    tokens = token_responses.parse(answer.body, scope_claim=provider.scope_claim)
    if isinstance(tokens, TokenError):
        raise _refusal(tokens, answer, wish)
    issued_type = tokens.members.get("issued_token_type", names.ACCESS_TOKEN_TYPE)
    if not 200 <= answer.status < 300 or issued_type != names.ACCESS_TOKEN_TYPE:
        raise unavailable(answer)
    scopes = tokens.scopes or wish.named
    if scopes and provider.scope_names.missing(wish.scopes, scopes):
        raise BrokerError(
            Reason.SCOPE_NOT_GRANTABLE, "The connected system did not grant the scopes of this action to the user."
        )
    # Neither asked for nor said: whatever the user may do there.
    narrowed = bool(scopes) and not provider.scope_names.beyond(scopes, (*wish.scopes, *provider.base_scopes))
    if not narrowed and not wish.connection.allow_unnarrowed:
        raise BrokerError(
            Reason.SCOPE_NOT_GRANTABLE, "The connected system grants more than this action needs, or does not say what."
        )
    stated = provider.access_token_lifetime_s
    life = tokens.expires_in or (UNKNOWN_LIFETIME if stated is None else timedelta(seconds=stated))
    renew_at = lone_token_life(provider, received_at=sent_at, expires_at=sent_at + life).renew_at
    return Granted(tokens.access_token, scopes or wish.scopes, narrowed, sent_at + life, usable_until=renew_at)


def _refusal(error: TokenError, answer: HttpAnswer, wish: Wish) -> BrokerError | UserRefused:
    """What an answer without a token means. Nobody is blamed for a server that is busy or broken, nor for us."""
    if token_refusals.is_busy(answer.status):
        return unavailable(answer)
    refused = [code for code in sorted(wish.refusals) if code.lower() in error.codes]
    if refused:
        return UserRefused(refused[0])
    if error.is_challenge:
        return UserRefused("claims")
    refusal = token_refusals.judge(error, status=answer.status, headers=answer.headers)
    match refusal.meaning:
        case RefusalMeaning.SCOPE:
            return BrokerError(
                Reason.SCOPE_NOT_GRANTABLE, "The connected system does not grant the scopes of this action."
            )
        case RefusalMeaning.OUR_FAULT:  # the operator must help (docs/runbooks/client-refused.md)
            _logger.error(
                "%s refuses our client, connection %s: %s", wish.provider.id, wish.connection.id, refusal.said
            )
        case _:
            pass
    return unavailable(answer)


def unavailable(answer: HttpAnswer | None) -> BrokerError:
    """With the time that the provider asks for, within reason."""
    asked_s = None if answer is None else answer.retry_after_s
    wait_s = _PAUSE_S if asked_s is None else asked_s
    return BrokerError(
        Reason.PROVIDER_UNAVAILABLE,
        "The system behind this connection does not answer.",
        remedy=Remedy(retry_after_s=min(max(1, wait_s), LONGEST_PAUSE_S)),
    )
