"""Edge minting: an IdP login in, a short-lived assertion out. The IdP token stops here (RFC 8693 token exchange)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from cab.domain import audit
from cab.domain.configured.clients import FrontEnd
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, missing_parameter
from cab.domain.identifiers import token_sha256
from cab.ports import Clock, Randomness, Signer, VerificationKeys
from cab.protocol import names
from cab.protocol.authorization_details import parse_task, task_digest
from cab.protocol.jose import jws
from cab.protocol.tokens import assertions, id_tokens
from cab.protocol.tokens.assertions import Assertion, whole_seconds_until
from cab.protocol.tokens.id_tokens import Login
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.edge.request import MintRequest, read
from cab.use_cases.identity.authenticate_client import ClientAuthenticator, Credentials, after_spending
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.identity.verified_before import Verified, VerifiedTokens
from cab.use_cases.identity.verify_dpop import DpopVerifier
from cab.use_cases.identity.verify_token import verify_token
from cab.values import immutable

_NO_LOGIN: Final = "The subject token is not an acceptable ID token."


@immutable
class Minted:
    """An assertion and the answer that carries it (RFC 8693 section 2.2.1)."""

    token: str
    assertion: Assertion
    now: datetime

    def body(self) -> dict[str, Any]:
        return {
            "access_token": self.token,
            "issued_token_type": names.JWT_TYPE,
            "token_type": names.NOT_AN_ACCESS_TOKEN,
            "expires_in": whole_seconds_until(self.assertion.expires_at, self.now),
            "txn": self.assertion.txn,
        }


class MintAssertion:
    def __init__(
        self,
        deployment: Deployment,
        authenticator: ClientAuthenticator[FrontEnd],
        keys: VerificationKeys,
        signer: Signer,
        dpop: DpopVerifier,
        still_here: StillHere,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._authenticator = authenticator
        self._keys = keys
        self._signer = signer
        self._dpop = dpop
        self._still_here = still_here
        self._clock = clock
        self._randomness = randomness
        self._logins = {name: VerifiedTokens[Login](keys, clock) for name in deployment.front_end_by_id}

    async def __call__(self, form: dict[str, str], credentials: Credentials, facts: Facts) -> Minted:
        """Raises: BrokerError (docs/api.md); Unavailable when keys or stores are not available."""
        # No front end has a secret, so `client_secret` is like any parameter that nobody knows here: ignored.
        front_end, spending = await self._authenticator.authenticate(replace(credentials, client_secret=None))
        facts.client_authenticated = True
        facts.tenant = front_end.tenant
        facts.actor = audit.Actor(client_id=front_end.client_id)
        return await after_spending(spending, self._mint(form, front_end, credentials, facts))

    async def _mint(self, form: dict[str, str], front_end: FrontEnd, credentials: Credentials, facts: Facts) -> Minted:
        jkt = await self._dpop.key_of(credentials.dpop_proof, tenant=front_end.tenant)
        request = read(form, sts_issuer=self._deployment.broker.sts_issuer)
        agent = _may_act(request, front_end)
        facts.actor = audit.Actor(client_id=front_end.client_id, agent_id=agent)
        task = None if request.details is None else parse_task(request.details)
        login = await self._login(request.subject_token, front_end)
        facts.subject = audit.Subject(
            key=login.subject,
            idp_issuer=login.idp_issuer,
            groups=list(login.groups),
            groups_unknown=login.groups_unknown,
        )
        auth_time = None if login.auth_time is None else datetime.fromtimestamp(login.auth_time, UTC)
        facts.login = audit.LoginFacts(session=login.session, auth_time=auth_time, acr=login.acr)
        facts.task = audit.TaskFacts(bounds_digest=task_digest(task)) if task else None
        facts.intent = audit.IntentFacts(trigger=task.trigger, task_id=task.task_id) if task else None
        now = self._clock.now()
        assertion = Assertion(
            issuer=self._deployment.broker.edge_issuer,
            subject=login.subject,
            tenant=login.tenant,
            idp_issuer=login.idp_issuer,
            idp_subject_hash=login.idp_subject_hash,
            groups=login.groups,
            groups_unknown=login.groups_unknown,
            front_end=front_end.client_id,
            may_act=agent,
            txn=facts.context.txn,
            jti=self._randomness.token(16),
            issued_at=now,
            expires_at=assertions.expiry(
                now, lifetime_s=self._deployment.broker.lifetimes.assertion_s, not_after=self._ends_at(login)
            ),
            task=task,
            auth_time=login.auth_time,
            vouched_at=login.vouched_s,
            access_ends_at=login.access_ends_s,
            acr=login.acr,
            amr=login.amr,
            jkt=jkt,
        )
        await self._still_here.check(assertion)
        sts_issuer = self._deployment.broker.sts_issuer
        token = await self._signer.sign(
            assertion.claims(audience=sts_issuer, sts_issuer=sts_issuer), typ=names.ASSERTION_TYP
        )
        facts.token = audit.TokenFacts(
            kind="assertion", jti=assertion.jti, sha256=token_sha256(token), expires_at=assertion.expires_at
        )
        return Minted(token, assertion, now)

    def _ends_at(self, login: Login) -> datetime:
        """Not past the end of the ID token, nor of the rights of all its provider's people."""
        access_ends_at = self._deployment.identity_provider_by_issuer[login.idp_issuer].access_ends_at
        return login.expires_at if access_ends_at is None else min(login.expires_at, access_ends_at)

    async def _login(self, token: str, front_end: FrontEnd) -> Login:
        """Who logged in. Front ends mint for every turn of a conversation from one ID token: it is remembered."""
        remembered = self._logins[front_end.client_id]
        try:
            login = await remembered.read(token, lambda: self._verify_id_token(token, front_end))
            if login.expires_at <= self._clock.now():  # within the leeway: nothing left that an assertion could live
                raise jws.TokenRejected("expired", expired=True)
        except jws.TokenRejected as error:
            reason = Reason.SUBJECT_TOKEN_EXPIRED if error.expired else Reason.SUBJECT_TOKEN_INVALID
            raise credential_refused(reason, _NO_LOGIN, error, token=token) from error
        return login

    async def _verify_id_token(self, token: str, front_end: FrontEnd) -> Verified[Login]:
        idp = self._deployment.identity_provider_by_issuer[front_end.identity_provider]
        unverified = jws.parse(token, allowed_headers=jws.CERTIFICATE_HEADERS)
        if unverified.unverified_issuer != idp.issuer:
            raise jws.TokenRejected("iss is not this front end's identity provider")
        rules = id_tokens.rules(idp, front_end.idp_client_id)
        claims = await verify_token(unverified, rules, self._keys, now=self._clock.now())
        return Verified.by(claims, id_tokens.read(claims, idp, client_id=front_end.idp_client_id))


def _may_act(request: MintRequest, front_end: FrontEnd) -> str:
    agent = request.may_act or front_end.default_agent
    if agent is None:
        raise missing_parameter("may_act")
    if agent not in front_end.agents:
        raise BrokerError(Reason.MAY_ACT_VIOLATED, "may_act names an agent that this front end may not use.")
    return agent
