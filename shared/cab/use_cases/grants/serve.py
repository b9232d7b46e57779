"""`POST /grants/token` of refresh_grants: an access token for the verified user of an assertion."""

from __future__ import annotations

from cab.domain.configured.connections import GrantKind
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import grant_id
from cab.ports import AccessToken, Foretell
from cab.use_cases.grants.narrow import NarrowTokens
from cab.use_cases.grants.refresh.attempt import Wanted
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.grants.trusted.tokens import TrustedTokens
from cab.use_cases.identity.verify_assertion import AssertionVerifier


class ServeGrant:
    """The caller is authenticated by transport; the *user* is derived here, from the assertion alone."""

    def __init__(
        self,
        deployment: Deployment,
        verifier: AssertionVerifier,
        refresher: RefreshGrant,
        narrow_tokens: NarrowTokens,
        trusted_tokens: TrustedTokens,
    ) -> None:
        self._deployment = deployment
        self._verifier = verifier
        self._refresher = refresher
        self._narrow_tokens = narrow_tokens
        self._trusted_tokens = trusted_tokens

    async def __call__(
        self,
        *,
        subject_assertion: str,
        connection_id: str,
        scopes: tuple[str, ...],
        provider_subject_token: str | None = None,
        rejected_token_sha256: str | None = None,
        foretell: Foretell | None = None,
    ) -> AccessToken:
        """Never a grant of anyone else than the assertion's subject. Raises: BrokerError; Unavailable."""
        assertion = await self._verifier.verify(subject_assertion)
        connection = self._deployment.connection_by_id.get(connection_id)
        if connection is None or assertion.tenant not in connection.tenants:
            raise BrokerError(Reason.TARGET_UNKNOWN, "The target is not registered.")
        if connection.grant_kind is GrantKind.BROKER_JWT:
            raise BrokerError(Reason.TARGET_NOT_ALLOWED, "This connection keeps no grants.")
        if not set(scopes) <= set(connection.all_scopes):
            raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The scope is in no action of this connection.")
        provider = self._deployment.provider_of(connection)
        if connection.grant_kind.is_trusted:
            return await self._trusted_tokens.access_token(
                assertion,
                connection,
                provider,
                scopes,
                provider_subject_token=provider_subject_token,
                rejected=rejected_token_sha256,
            )
        name = grant_id(assertion.tenant, assertion.subject, connection.id)
        wanted = Wanted(scopes, connection, provider, rejected=rejected_token_sha256)
        try:
            if provider.narrows_by_exchange:  # then the grant's own token is not the one that leaves
                return await self._narrow_tokens.access_token(name, wanted)
            return await self._refresher.access_token(name, wanted, foretell)
        finally:
            # However this request ends, also with the last seconds of an old token, or because its caller has left: the instance
            # must not stand still while the attempt that it began listens.
            await self._refresher.until_settled(name)
