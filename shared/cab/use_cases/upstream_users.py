"""Who a user is to a provider that takes the organisation's word, and whether that user's access still stands."""

from __future__ import annotations

from cab.domain.connections import Connection, GrantKind
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import ENDED, Grant
from cab.protocol.assertions import Assertion


def upstream_user(connection: Connection, assertion: Assertion) -> str:
    """The user as the provider knows them. By jwt_bearer, which can name anybody there, nobody is named by guessing.

    Raises: BrokerError GRANT_MISSING.
    """
    mapped = connection.user_map.get(assertion.subject)
    if mapped is not None:
        return mapped
    if connection.grant_kind is GrantKind.JWT_BEARER:
        raise BrokerError(Reason.GRANT_MISSING, "The organisation has not mapped this user to an account there.")
    return assertion.subject


def refuse_ended(grant: Grant) -> None:
    """Raises: BrokerError GRANT_REVOKED. Nothing else in the document stands in the way: the rest is the provider's word."""
    if grant.status in ENDED:
        raise BrokerError(Reason.GRANT_REVOKED, "This user's access to the system was ended.")
