"""Who a user is to a provider that takes the organisation's word."""

from __future__ import annotations

from cab.domain.configured.connections import Connection, GrantKind, Provider
from cab.domain.errors import BrokerError, Reason
from cab.protocol.tokens import subject_tokens
from cab.protocol.tokens.assertions import Assertion
from cab.protocol.tokens.subject_tokens import Statement


def upstream_user(connection: Connection, assertion: Assertion) -> str:
    """The user as the provider knows them. Where any name might be somebody's there, nobody is named by guessing.

    Raises: BrokerError GRANT_MISSING.
    """
    mapped = connection.user_map.get(assertion.subject)
    if mapped is not None:
        return mapped
    if connection.grant_kind.serves_mapped_users_only:
        raise BrokerError(Reason.GRANT_MISSING, "The organisation has not mapped this user to an account there.")
    return assertion.subject


def statement_about(
    connection: Connection, provider: Provider, assertion: Assertion, scopes: tuple[str, ...], *, issuer: str
) -> Statement | None:
    """What our STS, `issuer`, says of the user to the provider. None where the STS does not vouch.

    Raises: BrokerError GRANT_MISSING.
    """
    if not connection.grant_kind.sts_vouches:
        return None
    user = upstream_user(connection, assertion)
    if connection.grant_kind is GrantKind.TOKEN_EXCHANGE:
        audience = provider.subject_token_audience or ""
        return subject_tokens.for_token_exchange(assertion, issuer=issuer, audience=audience, subject=user)
    return subject_tokens.id_jag(
        assertion,
        issuer=issuer,
        audience=provider.issuer or "",
        subject=user,
        client_id=connection.client_id or "",
        resource=connection.resource,
        scopes=scopes,
    )
