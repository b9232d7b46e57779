"""Who is calling: front ends and agents prove themselves by a signed JWT, a federated workload identity, or (where allowed) a secret."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from cab.begun import Begun
from cab.domain.configured.clients import (
    Agent,
    ClientSecret,
    ClientSecretBasic,
    ClientSecretPost,
    FederatedJwt,
    FrontEnd,
    PrivateKeyJwt,
)
from cab.domain.errors import BrokerError, Claimed, Reason
from cab.ports import Clock, NotFound, SecretReader, VerificationKeys
from cab.protocol.client_secrets import basic_credentials
from cab.protocol.jose import jws
from cab.protocol.names import CLIENT_ASSERTION_TYPE
from cab.protocol.tokens.client_assertions import federated_rules, private_key_jwt_rules
from cab.stores.single_use import Kind, SingleUse
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verified_before import Verified, VerifiedTokens
from cab.use_cases.identity.verify_token import verify_token
from cab.values import immutable

_Client = TypeVar("_Client", bound=FrontEnd | Agent)
_Answer = TypeVar("_Answer")
_Spend = Coroutine[Any, Any, None]
_WORDS: Final = {ClientSecretBasic: "a secret in the header", ClientSecretPost: "a secret in the form"}
Spending = Begun[None] | asyncio.Future[None]  # of a single use; done when it is on record


def client_source(client_id: str) -> str:
    """Name of a client's own key set among the verification key sources."""
    return f"client:{client_id}"


@immutable
class Credentials:
    """What a request offers to authenticate with, as transport found it."""

    authorization: str | None
    client_assertion_type: str | None
    client_assertion: str | None
    client_id: str | None
    client_secret: str | None = None
    dpop_proof: str | None = None

    def __repr__(self) -> str:
        return "Credentials()"

    @property
    def methods(self) -> int:
        """How many ways of authenticating they use: exactly one is right (RFC 6749 section 2.3)."""
        return 3 - (self.authorization, self.client_assertion, self.client_secret).count(None)


def failed(
    why: Exception | str,
    detail: str = "Client authentication failed.",
    *,
    token: str | None = None,
    client_id: str | None = None,
) -> BrokerError:
    """One answer for every fault; `why` distinguishes them in the audit."""
    return credential_refused(Reason.CLIENT_AUTHENTICATION_FAILED, detail, why, token=token, client_id=client_id)


class ClientAuthenticator(Generic[_Client]):
    """Authenticates the clients of one endpoint family (edge: front ends; oauth2: agents)."""

    def __init__(
        self,
        clients: dict[str, _Client],
        *,
        issuer: str,
        endpoint: str,
        federated_algorithms: dict[str, frozenset[str]],
        keys: VerificationKeys,
        single_use: SingleUse,
        secrets: SecretReader,
        clock: Clock,
    ) -> None:
        self._clients = clients
        self._issuer = issuer
        self._federated_algorithms = federated_algorithms
        self._keys = keys
        self._single_use = single_use
        self._secrets = secrets
        self._clock = clock
        self._workloads = VerifiedTokens[_Client](keys, clock)
        self._key_rules = {
            client.client_id: private_key_jwt_rules(
                method, client_id=client.client_id, issuer=issuer, endpoint=endpoint
            )
            for client in clients.values()
            for method in client.authentication
            if isinstance(method, PrivateKeyJwt)
        }
        self._by_workload: dict[tuple[str, str], _Client] = {
            (method.issuer, method.subject): client
            for client in clients.values()
            for method in client.authentication
            if isinstance(method, FederatedJwt)
        }

    async def authenticate(self, offered: Credentials) -> tuple[_Client, Spending]:
        """The registered client, and the spending of its assertion's `jti`, under way.

        It must be awaited before anything is issued, consumed or refused: it raises CLIENT_ASSERTION_REPLAYED or
        Unavailable. It runs beside the caller's own first reads, so that single use costs no extra round trip.
        One answer for every failure: unknown, wrong key and malformed look the same.

        Raises: BrokerError CLIENT_AUTHENTICATION_FAILED; Unavailable.
        """
        if offered.methods > 1:
            raise failed("two methods at once", "Use one method of client authentication.", client_id=offered.client_id)
        if offered.client_assertion is not None:
            if offered.client_assertion_type != CLIENT_ASSERTION_TYPE:
                raise failed(
                    "client_assertion_type is another",
                    "client_assertion_type is not supported.",
                    client_id=offered.client_id,
                )
            client, spend = await self._by_jwt(offered.client_assertion)
        elif offered.authorization is not None:
            client, spend = await self._by_basic(offered.authorization), None
        elif offered.client_secret is not None:
            client = await self._by_secret(offered.client_id or "", (offered.client_secret,), ClientSecretPost)
            spend = None
        else:
            raise failed("no client authentication", "Client authentication is missing.", client_id=offered.client_id)
        if offered.client_id is not None and offered.client_id != client.client_id:
            if spend is not None:
                spend.close()
            raise failed("the parameter client_id is another client", client_id=offered.client_id)
        return client, _nothing_to_spend() if spend is None else Begun(spend)

    async def resolve_actor(self, actor_token: str) -> _Client:
        """The client behind an `actor_token` (RFC 8693 section 2.1): the same proofs as client authentication, nothing spent.

        Raises: BrokerError ACTOR_TOKEN_INVALID; Unavailable.
        """
        try:
            client, spend = await self._by_jwt(actor_token)
        except BrokerError as error:
            raise credential_refused(
                Reason.ACTOR_TOKEN_INVALID, "The actor token is not valid.", error, token=actor_token
            ) from error
        if spend is not None:
            spend.close()
        return client

    async def _by_jwt(self, assertion: str) -> tuple[_Client, _Spend | None]:
        workload = await self._workloads.recall(assertion)
        if workload is not None:
            return workload, None
        try:
            token = jws.parse(assertion)
            issuer = token.unverified_issuer
            if issuer in self._federated_algorithms:
                return self._workloads.remember(assertion, await self._by_workload_identity(token, issuer)), None
            return await self._by_own_key(token, issuer)
        except jws.TokenRejected as error:
            raise failed(error, token=assertion) from error

    async def _by_own_key(self, token: jws.UnverifiedToken, client_id: str) -> tuple[_Client, _Spend]:
        # The client is looked up by the assertion's own claim (many clients send no client_id parameter), then verified
        # with that client's keys only.
        client = self._clients.get(client_id)
        if client is None:
            raise jws.TokenRejected("iss is no client of this endpoint and no platform that clients run on")
        rules = self._key_rules.get(client_id)
        if rules is None:
            raise jws.TokenRejected("the client is not registered for private_key_jwt")
        if token.claims.get("sub") != client_id:
            raise jws.TokenRejected("sub is another than iss")
        source = client_source(client_id)
        verified = await verify_token(token, rules, self._keys, now=self._clock.now(), source=source)
        return client, self._spend(client, verified.text("jti"), verified.expires_at)

    async def _spend(self, client: _Client, jti: str, until: datetime) -> None:
        first_use = await self._single_use.claim(
            Kind.CLIENT_ASSERTION, tenant=client.tenant, issuer=client.client_id, identifier=jti, until=until
        )
        if not first_use:
            raise BrokerError(
                Reason.CLIENT_ASSERTION_REPLAYED,
                "This client assertion was used before.",
                why="used before",
                claimed=Claimed(client_id=client.client_id, issuer=client.client_id),
            )

    async def _by_workload_identity(self, token: jws.UnverifiedToken, issuer: str) -> Verified[_Client]:
        """A platform's identity token is reusable until it expires (its holder cannot choose `jti`), so none is spent.

        Workloads send the same one for up to an hour: it is remembered.
        """
        rules = federated_rules(issuer, self._federated_algorithms[issuer], audience=self._issuer)
        verified = await verify_token(token, rules, self._keys, now=self._clock.now())
        client = self._by_workload.get((issuer, verified.text("sub")))
        if client is None:
            raise jws.TokenRejected("sub is no workload of a client of this endpoint")
        return Verified.by(verified, client)

    async def _by_basic(self, authorization: str) -> _Client:
        offered = basic_credentials(authorization)
        if offered is None:
            raise failed("Authorization is not well-formed Basic")
        return await self._by_secret(*offered, ClientSecretBasic)

    async def _by_secret(self, client_id: str, offered: tuple[str, ...], kind: type[ClientSecret]) -> _Client:
        """`offered` is what the secret may be by the ways to read it; `kind` how it was sent: the entry allows each way by itself."""
        client = self._clients.get(client_id)
        method = next((m for m in client.authentication if isinstance(m, kind)), None) if client else None
        if client is None:
            raise failed("no such client at this endpoint", client_id=client_id)
        if method is None:
            raise failed(f"the client is not registered for {_WORDS[kind]}", client_id=client_id)
        try:
            expected = await self._secrets.access(method.secret.secret, method.secret.version)
        except NotFound as error:
            raise failed("the client's secret is not there", client_id=client_id) from error
        # Hashed first: compare_digest leaks the length of unequal inputs.
        right = hashlib.sha256(expected).digest()
        if not any(hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), right) for secret in offered):
            raise failed("the secret is another", client_id=client_id)
        return client


def _nothing_to_spend() -> Spending:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


async def after_spending(spending: Spending, work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Do the work while the single use is being recorded; a replay or a failing store beats whatever the work came to."""
    try:
        answer = await work
    except BaseException:
        await spending
        raise
    await spending
    return answer
