"""The jwt-bearer grant (RFC 7523 section 2.1) for ID-JAGs of the enterprise IdP: the IdP's word instead of an edge assertion.

What comes out is an `Assertion` of this request only: same user key as at the edge, bounded by what the ID-JAG carries.
"""

from __future__ import annotations

from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.tasks import Task
from cab.ports import Clock, Randomness, VerificationKeys
from cab.protocol.authorization_details import validate_detail
from cab.protocol.jose import jws
from cab.protocol.names import TASK_TYPE
from cab.protocol.tokens import id_jag
from cab.protocol.tokens.assertions import Assertion, expiry
from cab.protocol.tokens.id_jag import IdJag
from cab.stores.single_use import Kind, SingleUse
from cab.use_cases.exchange.request import Bounds
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verify_token import verify_token
from cab.values import immutable


@immutable
class Redeemed:
    assertion: Assertion
    bounds: Bounds


class RedeemIdJag:
    def __init__(
        self,
        deployment: Deployment,
        keys: VerificationKeys,
        single_use: SingleUse,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._keys = keys
        self._single_use = single_use
        self._clock = clock
        self._randomness = randomness

    async def __call__(self, token: str, agent: Agent, *, txn: str) -> Redeemed:
        """Raises: BrokerError ASSERTION_INVALID, one answer for every fault; Unavailable."""
        try:
            jag = await self._verify(token, agent)
        except jws.TokenRejected as error:
            raise credential_refused(
                Reason.ASSERTION_INVALID, "The assertion is not valid.", error, token=token
            ) from error
        now = self._clock.now()
        login = jag.login
        assertion = Assertion(
            issuer=self._deployment.broker.sts_issuer,
            subject=login.subject,
            tenant=login.tenant,
            idp_issuer=login.idp_issuer,
            idp_subject_hash=login.idp_subject_hash,
            groups=login.groups,
            groups_unknown=login.groups_unknown,
            front_end=agent.client_id,
            may_act=agent.client_id,
            txn=txn,
            jti=self._randomness.token(16),
            issued_at=now,
            expires_at=expiry(
                now, lifetime_s=self._deployment.broker.lifetimes.assertion_s, not_after=login.expires_at
            ),
            task=_task(jag),
            auth_time=login.auth_time,
            vouched_at=login.vouched_s,
            access_ends_at=login.access_ends_s,
            acr=login.acr,
            amr=login.amr,
            jkt=jag.jkt,
        )
        details = None if jag.details is None else tuple(jag.details)
        return Redeemed(assertion, Bounds(jag.resources, jag.scopes, details))

    async def _verify(self, token: str, agent: Agent) -> IdJag:
        unverified = jws.parse(token, allowed_headers=jws.CERTIFICATE_HEADERS)
        idp = self._deployment.identity_provider_by_issuer.get(unverified.unverified_issuer)
        if idp is None or not idp.id_jag or idp.tenant != agent.tenant:
            raise jws.TokenRejected("iss does not vouch for users here")
        now = self._clock.now()
        rules = id_jag.rules(idp, self._deployment.broker.sts_issuer)
        verified = await verify_token(unverified, rules, self._keys, now=now)
        jag = id_jag.read(verified, idp)
        if jag.client_id != agent.client_id:
            raise jws.TokenRejected("client_id is another client")
        if verified.expires_at <= now:
            raise jws.TokenRejected("expired", expired=True)
        first_use = await self._single_use.claim(
            Kind.ID_JAG, tenant=agent.tenant, issuer=idp.issuer, identifier=jag.jti, until=verified.expires_at
        )
        if not first_use:
            raise jws.TokenRejected("used before")
        return jag


def _task(jag: IdJag) -> Task | None:
    tasks = [item for item in jag.details or [] if isinstance(item, dict) and item.get("type") == TASK_TYPE]
    if not tasks:
        return None
    if len(tasks) > 1:
        raise BrokerError(Reason.ASSERTION_INVALID, "The assertion carries two tasks.")
    try:
        return validate_detail(Task, tasks[0])
    except BrokerError as error:
        raise BrokerError(Reason.ASSERTION_INVALID, "The assertion carries a malformed task.") from error
