"""May this grant serve? One answer for everybody who hands out tokens of it, and where its user connects again."""

from __future__ import annotations

from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import ENDED, Grant, GrantStatus


def check_servable(grant: Grant | None, *, is_trusted: bool, connect_uri: str) -> None:
    """`is_trusted`: the organisation's word takes the place of a consent. Raises: as the two that follow."""
    if not is_trusted:
        check_consented(grant, connect_uri=connect_uri)
    elif grant is not None:  # refresh_grants makes the document at first use
        check_not_ended(grant)


def check_consented(grant: Grant | None, *, connect_uri: str) -> None:
    """The user has consented, and nothing has ended that. Raises: BrokerError GRANT_MISSING, GRANT_NEEDS_REAUTH, GRANT_REVOKED."""
    if grant is None or not grant.keeps_tokens:
        raise not_connected(connect_uri)
    if grant.status is GrantStatus.NEEDS_REAUTH:
        raise needs_reauth(connect_uri)
    if grant.status in ENDED:
        raise has_ended(connect_uri)


def check_not_ended(grant: Grant) -> None:
    """Raises: BrokerError GRANT_REVOKED. Nothing else in the document stands in the way: the rest is the provider's word."""
    if grant.status in ENDED:
        raise BrokerError(Reason.GRANT_REVOKED, "This user's access to the system was ended.")


def not_connected(connect_uri: str) -> BrokerError:
    remedy = Remedy(interaction_uri=connect_uri)
    return BrokerError(Reason.GRANT_MISSING, "The user has not connected this system.", remedy=remedy)


def needs_reauth(connect_uri: str) -> BrokerError:
    remedy = Remedy(interaction_uri=connect_uri)
    return BrokerError(Reason.GRANT_NEEDS_REAUTH, "The user must connect this system again.", remedy=remedy)


def has_ended(connect_uri: str) -> BrokerError:
    remedy = Remedy(interaction_uri=connect_uri)
    return BrokerError(Reason.GRANT_REVOKED, "The user's connection to this system has ended.", remedy=remedy)
