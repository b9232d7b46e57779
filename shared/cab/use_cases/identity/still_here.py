"""Whether a person may still be acted for: their login is not over, their account not closed, their provider's time not up.

Asked of the store each time: what an identity provider said takes effect on all instances with the next request. Providers that say
nothing (no `shared_signals`) cost no read.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.ports import Clock
from cab.protocol.tokens.assertions import Assertion
from cab.stores.people.departures import Departures


class StillHere:
    def __init__(self, deployment: Deployment, departures: Departures, clock: Clock) -> None:
        self._deployment = deployment
        self._departures = departures
        self._clock = clock

    async def ended(self, *, tenant: str, subject: str, idp_issuer: str, login: datetime) -> str | None:
        """Why this login is over, None when it is not. Raises: Unavailable."""
        provider = self._deployment.identity_provider_by_issuer.get(idp_issuer)
        if provider is None:  # whoever takes it out of the configuration means its people too
            return "the identity provider is not configured any more"
        if provider.access_ends_at is not None and self._clock.now() >= provider.access_ends_at:
            return "access of this identity provider's people has ended"
        if provider.shared_signals is None:
            return None
        known = await self._departures.of(tenant, subject)
        if known is None or not known.ends(login):
            return None
        return (
            "the identity provider closed the account" if known.is_closed else "the identity provider ended the login"
        )

    async def check(self, assertion: Assertion, *, reason: Reason = Reason.SUBJECT_TOKEN_INVALID) -> None:
        """Raises: BrokerError with `reason`; Unavailable."""
        if assertion.access_ends_at is not None and self._clock.now().timestamp() >= assertion.access_ends_at:
            raise BrokerError(reason, "The subject token is not valid.", why="the person's access has ended")
        why = await self.ended(
            tenant=assertion.tenant,
            subject=assertion.subject,
            idp_issuer=assertion.idp_issuer,
            login=_login_of(assertion),
        )
        if why is not None:
            raise BrokerError(reason, "The subject token is not valid.", why=why)


def _login_of(assertion: Assertion) -> datetime:
    """Never when an assertion was made, where more is known: it may have been made between an event and its delivery."""
    known = assertion.vouched_at if assertion.auth_time is None else assertion.auth_time
    return assertion.issued_at if known is None else datetime.fromtimestamp(known, UTC)
