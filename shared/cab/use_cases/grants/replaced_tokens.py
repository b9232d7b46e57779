"""Refresh tokens of consents that were replaced or never finished: revoked upstream before their versions are destroyed.

The versions in the vault are what there is to do: a version goes only after its tokens were dealt with, so a crash in between
means that it is done again, which is harmless (RFC 7009 section 2.2).
"""

from __future__ import annotations

from cab.domain.configured.connections import Connection, Provider, RotationClass
from cab.domain.grants import Grant
from cab.ports import NotFound
from cab.stores.grant_payloads import CorruptPayload, GrantPayloads, Payload
from cab.use_cases.upstream.revoke import RevokeUpstream, Upstream


class ReplacedTokens:
    def __init__(self, payloads: GrantPayloads, revoke_upstream: RevokeUpstream) -> None:
        self._payloads = payloads
        self._revoke_upstream = revoke_upstream

    async def end(
        self, grant: Grant, below: int, connection: Connection, provider: Provider, *, grant_ended: bool = False
    ) -> list[Upstream]:
        """What came of each refresh token below version `below` that nobody used up and that the grant does not need.

        Nothing is sent where it could end the present consent: where one revocation ends a whole grant of that account, only
        tokens of another account go, unless the grant has ended anyway. Raises: Unavailable.
        """
        if provider.revocation.endpoint is None:
            return []
        found = {
            version: payload
            for version in range(grant.destroy_below, max(below, grant.secret_version + 1))
            if (payload := await self._at(grant, version, provider)) is not None
        }
        spent = {
            payload.stored.predecessor_sha256
            for payload in found.values()
            if payload.stored.predecessor_sha256 != payload.refresh_sha256
        }
        if grant_ended and grant.provider_class is RotationClass.STATIC:
            spent = set()  # there, use does not end a refresh token
        kept: set[str | None] = {None}
        if not grant_ended:
            try:
                kept.add((await self._payloads.base(grant, provider)).refresh_sha256)
            except (NotFound, CorruptPayload):
                return []  # what the grant needs is unknown, so nothing may be ended
        results: dict[str | None, Upstream] = {}
        for version, payload in found.items():
            sha256 = payload.refresh_sha256
            if version >= below or sha256 in kept or sha256 in spent or sha256 in results:
                continue
            if _may_end(grant, version, provider, grant_ended=grant_ended):
                results[sha256] = await self._revoke_upstream(payload, connection, provider)
            else:
                results[sha256] = Upstream.IMPOSSIBLE
        return list(results.values())

    async def _at(self, grant: Grant, version: int, provider: Provider) -> Payload | None:
        try:
            return await self._payloads.load(grant, version, provider)
        except (NotFound, CorruptPayload):
            return None


def _may_end(grant: Grant, version: int, provider: Provider, *, grant_ended: bool) -> bool:
    if provider.revocation.blast_radius == "token" or grant_ended:
        return True
    of_other_account = grant.replaced_account and grant.replaced_below is not None and version < grant.replaced_below
    return provider.revocation.blast_radius == "grant" and of_other_account
