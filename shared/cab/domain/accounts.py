"""Which upstream account a user's yes was given for: replaced by another one, the yes is for somebody else's rights."""

from __future__ import annotations

from typing import Final

from cab.domain.configured.connections import Connection, GrantKind
from cab.domain.grants import Grant
from cab.domain.identifiers import digest

# Where the organisation says who the user is there, the configuration does, and an approval is bound to its version.
CONFIGURED: Final = "configured"
NONE: Final = "none"


def account_behind(connection: Connection | None, grant: Grant | None) -> str:
    """A name for the account that acts, the same as long as it is the same. Says nothing about the account to who reads it.

    Where the provider does not name accounts, every consent may be another one's.
    """
    if connection is None or connection.grant_kind is not GrantKind.AUTHORIZATION_CODE:
        return CONFIGURED
    if grant is None or not grant.keeps_tokens:
        return NONE
    if grant.upstream_account is None:
        return digest("cab-consent", grant.grant_id, str(grant.revoke_epoch))
    return digest("cab-account", grant.grant_id, grant.upstream_account)
