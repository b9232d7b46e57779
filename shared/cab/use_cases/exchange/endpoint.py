"""The token endpoint's exchanges: intent in, short-lived narrow token out (RFC 8693), or a narrower assertion for the next agent.

The way of one exchange: authenticate the agent, verify the assertion, resolve the actor, read the intent, decide, count,
confirm if the decision says so, issue, audit. What can run side by side does; nothing is issued before all of it is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, cast

import orjson

from cab.domain import audit
from cab.domain.accounts import account_behind
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Confirm, Permit
from cab.domain.errors import BrokerError, Reason, Remedy, invalid_parameter
from cab.domain.grants import Grant
from cab.domain.identifiers import token_sha256
from cab.domain.intents import DeclaredIntent, Intent, TaskComparison
from cab.domain.tasks import Task
from cab.ports import Clock, PolicyEngine, Randomness, Signer
from cab.protocol import drafts, names
from cab.protocol.authorization_details import (
    PARAMETER,
    details_hash,
    parameters_digest,
    parse_intent,
    parse_task,
    task_digest,
    validate_detail,
)
from cab.protocol.drafts import SUB_PROFILE_AI_AGENT
from cab.protocol.forms import required
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import Assertion, actor_claim, whole_seconds_until
from cab.stores.approvals import Binding
from cab.stores.deferrals import Deferral, Deferrals
from cab.stores.issued_tokens import IssuedToken, IssuedTokens
from cab.stores.limits import RateLimits, TaskBudgets
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.exchange.confirm import Agreed, Confirmations, Waiting
from cab.use_cases.exchange.decide import Assessment, assess, raise_refusal, read_intent
from cab.use_cases.exchange.id_jag import RedeemIdJag
from cab.use_cases.exchange.issue import BrokerTokens, DownstreamTokens, Issued, is_broker_jwt
from cab.use_cases.exchange.request import (
    check_may_act,
    check_mode,
    check_tenant,
    default_intent,
    find_target,
    scopes_for,
)
from cab.use_cases.identity.authenticate_client import ClientAuthenticator, Credentials, Spending, after_spending
from cab.use_cases.identity.verify_assertion import AssertionVerifier
from cab.use_cases.identity.verify_dpop import DpopVerifier, check_binding

_F = TypeVar("_F")
_S = TypeVar("_S")
_T = TypeVar("_T")
DEFERRAL_POLL_BURST: Final = 2
STAND_IN_LIFE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange as understood so far: who, through whom, where. `jkt` is the DPoP key that proved itself, if any."""

    agent: Agent
    assertion: Assertion
    subject_token: str | None  # None when a deferral outlived its assertion: the STS then vouches anew
    connection: Connection
    scope: str | None
    jkt: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of an authenticated agent. `jkt` is the DPoP key that proved itself, `spending` its single use being recorded."""

    form: dict[str, str]
    agent: Agent
    jkt: str | None
    spending: Spending


@dataclass(frozen=True, slots=True)
class Standing:
    """What the stores say of the user's side: the grant, if one was asked for, and whether the task's uses are counted."""

    grant: Grant | None
    task_is_limited: bool


Grantor = Callable[[Asked, Facts], Coroutine[Any, Any, dict[str, Any]]]


class ExchangeToken:
    """`POST /oauth2/token`. Collaborators are built in bootstrap; the object holds no state of a request."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        authenticator: ClientAuthenticator[Agent],
        verifier: AssertionVerifier,
        policies: PolicyEngine,
        rate_limits: RateLimits,
        budgets: TaskBudgets,
        confirmations: Confirmations,
        deferrals: Deferrals,
        issued_tokens: IssuedTokens,
        broker_tokens: BrokerTokens,
        downstream_tokens: DownstreamTokens,
        signer: Signer,
        dpop: DpopVerifier,
        redeem_id_jag: RedeemIdJag,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._dpop = dpop
        self._redeem_id_jag = redeem_id_jag
        self._authenticator = authenticator
        self._verifier = verifier
        self._policies = policies
        self._rate_limits = rate_limits
        self._budgets = budgets
        self._confirmations = confirmations
        self._deferrals = deferrals
        self._issued_tokens = issued_tokens
        self._broker_tokens = broker_tokens
        self._downstream_tokens = downstream_tokens
        self._signer = signer
        self._clock = clock
        self._randomness = randomness
        self._grants = {
            names.TOKEN_EXCHANGE: self._exchange,
            drafts.DEFERRED_GRANT_TYPE: self._poll,
            names.JWT_BEARER: self._redeem,
        }

    async def __call__(self, form: dict[str, str], credentials: Credentials, facts: Facts) -> dict[str, Any]:
        """The JSON body of a success. Raises: BrokerError (contract.md, "Exchange"); Unavailable."""
        grant = self._grants.get(required(form, "grant_type"))
        if grant is None:
            raise BrokerError(Reason.GRANT_TYPE_UNKNOWN, "The grant type is not supported.")
        agent, spending = await self._authenticator.authenticate(credentials)
        facts.client_authenticated = True
        facts.tenant = agent.tenant
        facts.actor = audit.Actor(agent_id=agent.client_id, client_id=agent.client_id, trust_zone=agent.trust_zone)
        return await after_spending(spending, self._run(grant, form, agent, credentials, facts, spending))

    async def _run(
        self,
        grant: Grantor,
        form: dict[str, str],
        agent: Agent,
        credentials: Credentials,
        facts: Facts,
        spending: Spending,
    ) -> dict[str, Any]:
        jkt = await self._dpop.key_of(credentials.dpop_proof, tenant=agent.tenant)
        return await grant(Asked(form, agent, jkt, spending), facts)

    # --- token exchange ---

    async def _exchange(self, asked: Asked, facts: Facts) -> dict[str, Any]:
        form, agent = asked.form, asked.agent
        if required(form, "subject_token_type") != names.JWT_TYPE:
            raise invalid_parameter("subject_token_type")
        assertion = await self._verify_subject(required(form, "subject_token"), agent, facts)
        check_binding(assertion.jkt, asked.jkt)
        await self._check_actor(form, agent)
        requested = form.get("requested_token_type", names.ACCESS_TOKEN_TYPE)
        if requested == names.JWT_TYPE:
            return await self._delegate(asked, assertion, facts)
        if requested != names.ACCESS_TOKEN_TYPE:
            raise invalid_parameter("requested_token_type")
        exchange = self._begin(
            asked, assertion, find_target(form, assertion, self._deployment), subject_token=form["subject_token"]
        )
        return await self._decide_and_issue(exchange, asked, self._declared_intent(form, exchange), facts)

    def _begin(
        self, asked: Asked, assertion: Assertion, connection: Connection, *, subject_token: str | None
    ) -> Exchange:
        check_mode(asked.agent)
        return Exchange(
            agent=asked.agent,
            assertion=assertion,
            subject_token=subject_token,
            connection=connection,
            scope=asked.form.get("scope"),
            jkt=asked.jkt,
        )

    # --- jwt-bearer: an ID-JAG of the enterprise IdP ---

    async def _redeem(self, asked: Asked, facts: Facts) -> dict[str, Any]:
        """Grants at most what the ID-JAG carries: its resource, its scopes, its details."""
        form, agent = asked.form, asked.agent
        if not agent.accepts_id_jag:
            raise BrokerError(Reason.GRANT_TYPE_NOT_ALLOWED, "This client may not use the jwt-bearer grant.")
        redeemed = await self._redeem_id_jag(required(form, "assertion"), agent, txn=facts.context.txn)
        assertion, bounds = redeemed.assertion, redeemed.bounds
        note_assertion(facts, assertion, agent)
        check_binding(assertion.jkt, asked.jkt)
        if (
            bounds.resources is not None
            and "resource" not in form
            and "audience" not in form
            and len(bounds.resources) == 1
        ):
            form = form | {"resource": bounds.resources[0]}
        connection = find_target(form, assertion, self._deployment)
        if bounds.resources is not None and connection.resource not in bounds.resources:
            raise BrokerError(Reason.TARGET_NOT_ALLOWED, "The assertion is for another resource.")
        exchange = self._begin(asked, assertion, connection, subject_token=None)
        declared = self._declared_intent(form, exchange, carried=bounds.details)
        if bounds.scopes is not None:
            action = read_intent(declared, connection, assertion).action
            allowed = tuple(scope for scope in action.scopes if scope in bounds.scopes)
            wanted = exchange.scope.split() if exchange.scope else list(allowed)
            if not set(wanted) <= set(allowed) or (action.scopes and not wanted):
                raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The scope goes beyond what the assertion carries.")
            exchange = replace(exchange, scope=" ".join(wanted) or None)
        return await self._decide_and_issue(exchange, asked, declared, facts)

    async def _verify_subject(self, token: str, agent: Agent, facts: Facts) -> Assertion:
        assertion = await self._verifier.verify(token)
        facts.txn = assertion.txn
        check_tenant(assertion, agent)
        note_assertion(facts, assertion, agent)
        check_may_act(assertion, agent)
        return assertion

    async def _check_actor(self, form: dict[str, str], agent: Agent) -> None:
        """RFC 8693 section 2.1: the type goes with the token, and the actor must be the client that authenticated."""
        if ("actor_token" in form) != ("actor_token_type" in form):
            missing = "actor_token_type" if "actor_token" in form else "actor_token"
            raise BrokerError(
                Reason.PARAMETER_MISSING, f"The parameter {missing} is missing.", remedy=Remedy(member=missing)
            )
        if "actor_token" not in form:
            return
        if form["actor_token_type"] not in (names.JWT_TYPE, names.ID_TOKEN_TYPE):
            raise invalid_parameter("actor_token_type")
        actor = await self._authenticator.resolve_actor(form["actor_token"])
        if actor.client_id != agent.client_id:
            raise BrokerError(Reason.ACTOR_MISMATCH, "The actor token is of another client.")

    def _declared_intent(
        self, form: dict[str, str], exchange: Exchange, *, carried: list[Any] | None = None
    ) -> DeclaredIntent:
        """From the request, else what the ID-JAG carries, else the agent's registered default. A carried one also bounds."""
        intents = [
            item for item in carried or [] if not (isinstance(item, dict) and item.get("type") == names.TASK_TYPE)
        ]
        bound = [validate_detail(DeclaredIntent, item) for item in intents]
        declared: DeclaredIntent | None
        if PARAMETER in form:
            declared = parse_intent(form[PARAMETER])
        elif len(bound) == 1:
            declared = bound[0]
        else:
            declared = default_intent(exchange.agent, exchange.connection, exchange.scope)
        if declared is None:
            return parse_intent(None)
        if bound and declared not in bound:
            raise BrokerError(Reason.INTENT_OUTSIDE_TASK, "The intent is not one that the assertion carries.")
        return declared

    # --- decision ---

    async def _decide_and_issue(
        self, exchange: Exchange, asked: Asked, declared: DeclaredIntent, facts: Facts
    ) -> dict[str, Any]:
        completion = asked.form.get(drafts.COMPLETION_MODE)
        if completion not in (None, drafts.COMPLETION_MODE_DEFERRED):
            raise invalid_parameter(drafts.COMPLETION_MODE)
        now = self._clock.now()
        agent, assertion, connection = exchange.agent, exchange.assertion, exchange.connection
        facts.tool = audit.Tool(
            connection=connection.id, provider=connection.provider, action=declared.actions[0], mode=agent.mode
        )
        intent = read_intent(declared, connection, assertion)
        details = [intent.as_authorization_detail()]
        intent_hash = details_hash(details)
        note_intent(facts, intent, intent_hash, assertion)
        scopes = scopes_for(exchange.scope, intent.action)
        facts.scopes = audit.Scopes(requested=exchange.scope.split() if exchange.scope else [], granted=[])
        assessment = self._assess(intent, exchange, facts, now)
        if isinstance(assessment.decision, Confirm):
            binding = Binding(
                tenant=assertion.tenant,
                subject=assertion.subject,
                agent=agent.client_id,
                intent_hash=intent_hash,
                policy_version=self._deployment.policy_version,
                task_id=intent.task_id,
            )
            waiting = await self._agreed_answer(
                exchange, intent, assessment, assessment.decision, binding, scopes, asked.spending, facts, now
            )
            if not isinstance(waiting, Waiting):
                return waiting
            if completion is None:
                raise self._confirmations.refusal(waiting)
            raise await self._defer(exchange, declared, waiting, now)
        # A refusal costs the caller its rate limit too: probing is not free.
        standing = await self._count_and_read(exchange, intent, assessment, asked.spending, facts, now)
        raise_refusal(assessment.decision)
        return await self._issue(exchange, details, scopes, standing, facts)

    async def _agreed_answer(
        self,
        exchange: Exchange,
        intent: Intent,
        assessment: Assessment,
        decision: Confirm,
        binding: Binding,
        scopes: tuple[str, ...],
        spending: Spending,
        facts: Facts,
        now: datetime,
    ) -> dict[str, Any] | Waiting:
        """The answer that the user agreed to, or the question that waits for them.

        The question is what the rate limit counts, once: asking again while it waits and fetching what was agreed to are the
        same action of the same person.
        """
        standing, current, _ = await _all_of(
            self._read_standing(exchange, assessment), self._confirmations.current(binding), spending
        )
        details = [intent.as_authorization_detail()]
        try:
            # Whoever must connect first is not asked, and no yes is spent on nothing.
            self._check_servable(exchange, standing)
            account = account_behind(exchange.connection, standing.grant)
            answer = (
                await self._confirmations.answer_to(current, decision, account=account, now=now) if current else None
            )
        except BrokerError:  # a refusal is counted, as everywhere
            await self._count(exchange, intent, facts, now)
            raise
        if isinstance(answer, Agreed):
            facts.confirmation_id = answer.request.id
            given = await self._issue_agreed(answer, exchange, details, scopes, standing, facts)
            if given is not None:
                return given
            answer = None  # another request was faster
        if isinstance(answer, Waiting):
            waiting = answer
        else:
            await self._count(exchange, intent, facts, now)
            waiting = await self._confirmations.ask(
                binding,
                intent,
                decision,
                instead_of=current,
                detail=details[0],
                txn=exchange.assertion.txn,
                now=now,
            )
        facts.decision, facts.confirmation_id = "confirm", waiting.request.id
        return waiting

    def _assess(self, intent: Intent, exchange: Exchange, facts: Facts, now: datetime) -> Assessment:
        started = time.perf_counter()
        assessment = assess(intent, exchange.assertion, exchange.agent, self._policies, now=now)
        facts.latency["policy"] = (time.perf_counter() - started) * 1000
        decision = assessment.decision
        facts.decision = (
            "permit" if isinstance(decision, Permit) else "confirm" if isinstance(decision, Confirm) else "deny"
        )
        facts.policy = audit.PolicyFacts(
            version=self._deployment.policy_version,
            determining_rules=list(decision.rules),
            shadow_decision=type(assessment.shadow).__name__.lower() if assessment.shadow else None,
        )
        facts.task = audit.TaskFacts(
            bounds_digest=task_digest(exchange.assertion.task) if exchange.assertion.task else None,
            within=assessment.comparison is TaskComparison.WITHIN,
            comparison=assessment.comparison.value,
        )
        return assessment

    async def _count_and_read(
        self,
        exchange: Exchange,
        intent: Intent,
        assessment: Assessment,
        spending: Spending,
        facts: Facts,
        now: datetime,
    ) -> Standing:
        """Count the request and read what issuing needs, all at once with the client's single use.

        Policy ran before: a denied agent never learns whether a grant exists.
        """
        standing, _, _ = await _all_of(
            self._read_standing(exchange, assessment), self._count(exchange, intent, facts, now), spending
        )
        return standing

    async def _count(self, exchange: Exchange, intent: Intent, facts: Facts, now: datetime) -> None:
        """Count the request, unless it fails through us. Raises: BrokerError RATE_LIMITED; Unavailable."""
        counted = await self._rate_limits.count(
            tenant=exchange.assertion.tenant,
            subject=exchange.assertion.subject,
            agent=exchange.agent.client_id,
            action=intent.action,
            now=now,
        )
        if counted is None:
            return
        facts.undo.append(lambda: self._rate_limits.take_back(counted))
        if counted.wait_s is not None:
            raise BrokerError(Reason.RATE_LIMITED, "Too many requests.", remedy=Remedy(retry_after_s=counted.wait_s))

    async def _read_standing(self, exchange: Exchange, assessment: Assessment) -> Standing:
        if not isinstance(assessment.decision, Permit | Confirm):
            return Standing(None, task_is_limited=False)
        task = asyncio.create_task(self._is_limited(exchange.assertion)) if exchange.assertion.task else None
        try:
            # A confirmation is bound to the account: an answer of some seconds ago does not do.
            grant = await self._read_grant(exchange, fresh=isinstance(assessment.decision, Confirm))
        finally:
            task_is_limited = await task if task else False
        return Standing(grant, task_is_limited)

    async def _read_grant(self, exchange: Exchange, *, fresh: bool) -> Grant | None:
        if is_broker_jwt(exchange.connection):
            return None
        return await self._downstream_tokens.read_grant(exchange.connection, exchange.assertion, fresh=fresh)

    async def _is_limited(self, assertion: Assertion) -> bool:
        return assertion.task is not None and await self._budgets.is_limited(
            assertion.task, tenant=assertion.tenant, front_end=assertion.front_end, subject=assertion.subject
        )

    # --- issuing ---

    async def _issue(
        self,
        exchange: Exchange,
        details: list[dict[str, Any]],
        scopes: tuple[str, ...],
        standing: Standing,
        facts: Facts,
    ) -> dict[str, Any]:
        self._check_servable(exchange, standing)  # a missing grant costs the task no use
        await self._spend_use(exchange.assertion, standing)
        issued = await self._token(exchange, details, scopes, standing, facts)
        return self._answer(exchange, issued, details, facts)

    async def _issue_agreed(
        self,
        agreed: Agreed,
        exchange: Exchange,
        details: list[dict[str, Any]],
        scopes: tuple[str, ...],
        standing: Standing,
        facts: Facts,
    ) -> dict[str, Any] | None:
        """The same for what the user agreed to; None when another request has spent that, or the account was just replaced.

        The yes is spent when the token is there: a provider that is away, or a grant that turns out to have ended, costs
        the user no second click.
        """
        self._check_servable(exchange, standing)
        issued = await self._token(exchange, details, scopes, standing, facts)
        if await self._is_of_another_account(issued, exchange, standing):
            return None
        if not await self._confirmations.spend(agreed):
            return None
        await self._spend_use(exchange.assertion, standing)
        return self._answer(exchange, issued, details, facts)

    async def _is_of_another_account(self, issued: Issued, exchange: Exchange, standing: Standing) -> bool:
        """Whether the token came of a consent that the grant did not have yet when the user's yes was looked at."""
        if standing.grant is None or issued.secret_version in (None, standing.grant.secret_ver):
            return False
        now = await self._downstream_tokens.read_grant(exchange.connection, exchange.assertion, fresh=True)
        return account_behind(exchange.connection, now) != account_behind(exchange.connection, standing.grant)

    def _answer(
        self, exchange: Exchange, issued: Issued, details: list[dict[str, Any]], facts: Facts
    ) -> dict[str, Any]:
        facts.decision = "permit"
        self._note_issued(exchange, issued, details, facts)
        body = {
            "access_token": issued.token,
            "issued_token_type": names.ACCESS_TOKEN_TYPE,
            "token_type": "DPoP" if issued.jkt else "Bearer",
            "expires_in": whole_seconds_until(issued.expires_at, self._clock.now()),
            "scope": " ".join(issued.scopes),
            "authorization_details": details,
            "txn": exchange.assertion.txn,
        }
        return body if issued.narrowed is not False else body | {"narrowed": False}

    def _check_servable(self, exchange: Exchange, standing: Standing) -> None:
        if not is_broker_jwt(exchange.connection):
            self._downstream_tokens.check_servable(exchange.connection, standing.grant)

    async def _spend_use(self, assertion: Assertion, standing: Standing) -> None:
        """Raises: BrokerError TASK_EXHAUSTED; Unavailable."""
        if not standing.task_is_limited or assertion.task is None:
            return
        left = await self._budgets.spend(
            assertion.task,
            tenant=assertion.tenant,
            front_end=assertion.front_end,
            subject=assertion.subject,
            not_after=assertion.expires_at,
        )
        if not left:
            raise BrokerError(Reason.TASK_EXHAUSTED, "The task has no uses left.")

    async def _token(
        self,
        exchange: Exchange,
        details: list[dict[str, Any]],
        scopes: tuple[str, ...],
        standing: Standing,
        facts: Facts,
    ) -> Issued:
        assertion, agent, connection = exchange.assertion, exchange.agent, exchange.connection
        started = time.perf_counter()
        if is_broker_jwt(connection):
            issued = await self._broker_tokens.issue(
                connection, assertion, agent, scopes=scopes, details=details, txn=assertion.txn, jkt=exchange.jkt
            )
        else:
            issued = await self._downstream_tokens.issue(
                connection,
                standing.grant,
                assertion,
                subject_assertion=exchange.subject_token or await self._vouch(exchange),
                scopes=scopes,
            )
        facts.latency["grant"] = (time.perf_counter() - started) * 1000
        return issued

    async def _vouch(self, exchange: Exchange) -> str:
        """A deferral may outlive its assertion; refresh_grants still wants one. Same subject, this agent, one minute, no task."""
        now = self._clock.now()
        stand_in = replace(
            exchange.assertion,
            issuer=self._deployment.broker.sts_issuer,
            jti=self._randomness.token(16),
            issued_at=now,
            expires_at=(now + STAND_IN_LIFE).replace(microsecond=0),
        )
        sts_issuer = self._deployment.broker.sts_issuer
        claims = stand_in.claims(audience=sts_issuer, sts_issuer=sts_issuer)
        return await self._signer.sign(claims, typ=names.ASSERTION_TYP)

    def _note_issued(self, exchange: Exchange, issued: Issued, details: list[dict[str, Any]], facts: Facts) -> None:
        assertion, agent = exchange.assertion, exchange.agent
        sha256 = token_sha256(issued.token)
        facts.token = audit.TokenFacts(
            kind="broker_jwt" if issued.jti else "downstream",
            jti=issued.jti,
            sha256=sha256,
            expires_at=issued.expires_at,
        )
        facts.scopes = audit.Scopes(
            requested=facts.scopes.requested if facts.scopes else [],
            granted=list(issued.scopes),
            narrowed=issued.narrowed,
        )
        if issued.grant_id is None:
            return
        facts.grant = audit.GrantFacts(id=issued.grant_id, seq=issued.grant_seq, secret_version=issued.secret_version)
        record = IssuedToken(
            tenant=assertion.tenant,
            subject=assertion.subject,
            client_id=agent.client_id,
            connection=exchange.connection.id,
            grant_id=issued.grant_id,
            scope=" ".join(issued.scopes),
            details=details,
            act=actor_claim(
                (agent.client_id, *assertion.chain),
                self._deployment.broker.sts_issuer,
                sub_profile=SUB_PROFILE_AI_AGENT,
            ),
            txn=assertion.txn,
            issued_at=self._clock.now(),
            expires_at=issued.expires_at,
        )
        facts.beside.append(self._issued_tokens.remember(sha256, record))

    # --- deferred exchanges ---

    async def _defer(
        self, exchange: Exchange, declared: DeclaredIntent, waiting: Waiting, now: datetime
    ) -> BrokerError:
        code = self._randomness.token(32)
        sts_issuer = self._deployment.broker.sts_issuer
        lifetimes = self._deployment.broker.lifetimes
        expires_at = waiting.request.waits_until + timedelta(seconds=lifetimes.approval_valid_s)
        await self._deferrals.open(
            code,
            Deferral(
                client_id=exchange.agent.client_id,
                approval_id=waiting.request.id,
                assertion_claims=exchange.assertion.claims(audience=sts_issuer, sts_issuer=sts_issuer),
                intent=declared.model_dump(mode="json", exclude_none=True),
                connection=exchange.connection.id,
                scope=exchange.scope,
                jkt=exchange.jkt,
                created_at=now,
                expires_at=expires_at,
            ),
        )
        return self._pending(code, waiting, now)

    def _pending(
        self, code: str, waiting: Waiting, now: datetime, reason: Reason = Reason.AUTHORIZATION_PENDING
    ) -> BrokerError:
        return BrokerError(
            reason,
            "The user has not answered yet.",
            remedy=Remedy(
                deferral_code=code,
                interval_s=self._deployment.broker.lifetimes.deferral_interval_s,
                expires_in_s=max(0, int((waiting.request.waits_until - now).total_seconds())),
                interaction_uri=self._confirmations.interaction_uri(waiting.request),
            ),
        )

    async def _poll(self, asked: Asked, facts: Facts) -> dict[str, Any]:
        """DTR polling: same client, no token and no intent in the request; everything was bound when it was deferred."""
        agent = asked.agent
        code = required(asked.form, drafts.DEFERRAL_CODE)
        now = self._clock.now()
        deferral, _ = await asyncio.gather(self._deferrals.read(code), asked.spending)
        if deferral is None or deferral.client_id != agent.client_id:
            raise BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code is not valid.")
        check_binding(deferral.jkt, asked.jkt)
        assertion = assertions.restore(deferral.assertion_claims)
        facts.txn = assertion.txn
        note_assertion(facts, assertion, agent)
        facts.confirmation_id = deferral.approval_id
        connection = self._deployment.connection_by_id.get(deferral.connection)
        if now >= deferral.expires_at or connection is None:  # a deployment may have taken the connection away
            raise BrokerError(Reason.DEFERRAL_EXPIRED, "The deferral code has expired.")
        exchange = Exchange(
            agent=agent,
            assertion=assertion,
            subject_token=None,
            connection=connection,
            scope=deferral.scope,
            jkt=deferral.jkt,
        )
        await self._check_pace(code, deferral, now)
        return await self._complete(code, deferral, exchange, facts, now)

    async def _check_pace(self, code: str, deferral: Deferral, now: datetime) -> None:
        polls = await self._deferrals.count_poll(code, deferral)
        interval_s = self._deployment.broker.lifetimes.deferral_interval_s
        allowed = DEFERRAL_POLL_BURST + (now - deferral.created_at).total_seconds() / interval_s
        if polls > allowed:
            raise BrokerError(
                Reason.POLLED_TOO_FAST,
                "Poll no faster than the interval.",
                remedy=Remedy(deferral_code=code, interval_s=interval_s * 2),
            )

    async def _complete(
        self, code: str, deferral: Deferral, exchange: Exchange, facts: Facts, now: datetime
    ) -> dict[str, Any]:
        declared = validate_detail(DeclaredIntent, deferral.intent)
        facts.tool = audit.Tool(
            connection=exchange.connection.id, provider=exchange.connection.provider, action=declared.actions[0]
        )
        intent = read_intent(declared, exchange.connection, exchange.assertion)
        details = [intent.as_authorization_detail()]
        intent_hash = details_hash(details)
        note_intent(facts, intent, intent_hash, exchange.assertion)
        scopes = scopes_for(exchange.scope, intent.action)
        request = await self._confirmations.find(deferral.approval_id)
        mine = (exchange.assertion.tenant, exchange.assertion.subject, exchange.agent.client_id, intent_hash)
        if request is None or request.binding.whose() != mine:
            raise BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code is not valid.")
        # Policy is asked again: a rule that changed, or an agent taken off its list, ends what was only promised.
        assessment = self._assess(intent, exchange, facts, now)
        raise_refusal(assessment.decision)
        if request.binding.policy_version != self._deployment.policy_version:
            raise BrokerError(Reason.DEFERRAL_EXPIRED, "Policy has changed since the user was asked.")
        standing = await self._read_standing(exchange, assessment)
        account = account_behind(exchange.connection, standing.grant)
        answer = await self._confirmations.answer_to(request, assessment.decision, account=account, now=now)
        if isinstance(answer, Waiting):
            raise self._pending(code, answer, now)
        if answer is not None:
            given = await self._issue_agreed(answer, exchange, details, scopes, standing, facts)
            if given is not None:
                return given
        raise await self._confirmations.ended(request, account=account)

    # --- delegation to another agent ---

    async def _delegate(self, asked: Asked, assertion: Assertion, facts: Facts) -> dict[str, Any]:
        """A narrower assertion for the next agent: same subject and txn, task or smaller, never a later end (RFC 8693 section 4.1).

        A key binding stays: dropping it would widen.
        """
        form, agent = asked.form, asked.agent
        sts_issuer = self._deployment.broker.sts_issuer
        if form.get("audience") != sts_issuer or "resource" in form:
            raise BrokerError(Reason.TARGET_NOT_ALLOWED, "Assertions are made for this broker only.")
        if "scope" in form or drafts.COMPLETION_MODE in form:
            raise invalid_parameter("scope" if "scope" in form else drafts.COMPLETION_MODE)
        next_agent = required(form, "may_act")
        chain = (agent.client_id, *assertion.chain)
        if (
            next_agent not in agent.delegates_to
            or next_agent not in self._deployment.agent_by_id
            or self._deployment.agent_by_id[next_agent].tenant != assertion.tenant
            or next_agent in chain
            or len(chain) >= assertions.MAX_DEPTH
        ):
            raise BrokerError(Reason.MAY_ACT_VIOLATED, "This agent may not hand the task on to that one.")
        task = self._narrower_task(form, assertion)
        await asked.spending
        now = self._clock.now()
        delegated = replace(
            assertion,
            issuer=sts_issuer,
            may_act=next_agent,
            chain=chain,
            task=task,
            jti=self._randomness.token(16),
            issued_at=now.replace(microsecond=0),
            expires_at=assertions.expiry(
                now, lifetime_s=self._deployment.broker.lifetimes.assertion_s, not_after=assertion.expires_at
            ),
        )
        if delegated.expires_at <= now:
            raise BrokerError(Reason.SUBJECT_TOKEN_EXPIRED, "The subject token has expired.")
        token = await self._signer.sign(
            delegated.claims(audience=sts_issuer, sts_issuer=sts_issuer), typ=names.ASSERTION_TYP
        )
        facts.decision = "permit"
        facts.task = audit.TaskFacts(bounds_digest=task_digest(task) if task else None)
        facts.token = audit.TokenFacts(
            kind="assertion", jti=delegated.jti, sha256=token_sha256(token), expires_at=delegated.expires_at
        )
        body: dict[str, Any] = {
            "access_token": token,
            "issued_token_type": names.JWT_TYPE,
            "token_type": names.NOT_AN_ACCESS_TOKEN,
            "expires_in": whole_seconds_until(delegated.expires_at, now),
            "txn": assertion.txn,
        }
        return body

    @staticmethod
    def _narrower_task(form: dict[str, str], assertion: Assertion) -> Task | None:
        if PARAMETER not in form:
            return assertion.task
        task = parse_task(form[PARAMETER])
        # Without a task the assertion is bounded to reads: adding one would widen it.
        if assertion.task is None or not assertion.task.contains(task):
            raise BrokerError(Reason.INTENT_OUTSIDE_TASK, "The task given on is wider than the one received.")
        return task


async def _all_of(first: Awaitable[_F], second: Awaitable[_S], third: Awaitable[_T]) -> tuple[_F, _S, _T]:
    """All results, side by side. Each has its end before anything is raised; the last one's error counts before the others'."""
    outcomes = await asyncio.gather(first, second, third, return_exceptions=True)
    for outcome in reversed(outcomes):
        if isinstance(outcome, BaseException):
            raise outcome
    return cast(tuple[_F, _S, _T], tuple(outcomes))


def note_assertion(facts: Facts, assertion: Assertion, agent: Agent) -> None:
    facts.subject = audit.Subject(
        key=assertion.subject,
        idp_issuer=assertion.idp_issuer,
        groups=list(assertion.groups),
        groups_unknown=assertion.groups_unknown,
    )
    facts.actor = audit.Actor(
        agent_id=agent.client_id,
        chain=[agent.client_id, *assertion.chain],
        client_id=assertion.front_end,
        trust_zone=agent.trust_zone,
    )


def note_intent(facts: Facts, intent: Intent, intent_hash: str, assertion: Assertion) -> None:
    """What was declared, redacted as the catalog says; the digest covers all of it."""
    action = intent.action
    facts.tool = audit.Tool(
        connection=intent.connection,
        provider=facts.tool.provider if facts.tool else None,
        action=action.id,
        effect=action.effect.value,
        mode=facts.tool.mode if facts.tool else None,
    )
    shown = {
        name: "[redacted]" if action.parameters[name].redact else value for name, value in intent.parameters.items()
    }
    facts.intent = audit.IntentFacts(
        identifier=intent.identifier,
        parameters_digest=parameters_digest(intent.parameters),
        parameters=orjson.dumps(shown).decode(),
        reason=intent.reason,
        trigger=assertion.task.trigger if assertion.task else None,
        task_id=intent.task_id,
        intent_hash=intent_hash,
    )
