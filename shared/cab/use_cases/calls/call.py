"""One tool call from the agent's words to the platform's answer: decided elsewhere, rendered, sent, recorded, reduced.

    find the tool -> declare the intent -> exchange_token decides, and its event is the attempt -> render what was granted ->
    send (`execute`) -> reduce the answer (`answers`) -> publish the outcome -> answer

Nothing is answered before the outcome was published or is kept to be published; then the answer says `audit: pending`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from cab.domain import audit
from cab.domain.calls.rendering import RenderedCall, is_keyed, render
from cab.domain.calls.tools import CallableTool, detail_of
from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.calls import AnyCall, Call, McpCall
from cab.domain.configured.connections import Connection, GrantKind
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.identifiers import digest, token_sha256
from cab.domain.intents import DeclaredIntent, Intent, check_against_catalog
from cab.ports import AuditLog, CallDecisions, Clock, HttpAnswer, McpSenders, PermittedCall, Randomness, Unavailable
from cab.protocol.authorization_details import parameters_digest, validate_detail
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.calls.answers import SALT_BYTES, AnswerRefused, Reduced, reduce
from cab.use_cases.calls.execute import Execute, Executed, Sendable
from cab.use_cases.calls.identify import ToolCaller
from cab.use_cases.calls.listing import Listing
from cab.use_cases.calls.running import RunningCalls
from cab.use_cases.upstream.servable import needs_reauth
from cab.values import immutable

_log = logging.getLogger(__name__)
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,200}")
QUOTED_KEY_HEADER: Final = (
    "idempotency-key"  # a string of RFC 9651 there, says draft-ietf-httpapi-idempotency-key-header-07
)


class RefusedElsewhere(Exception):
    """exchange_token refused, and has put that on record."""

    def __init__(self, refusal: BrokerError) -> None:
        super().__init__(refusal.reason.value)
        self.refusal = refusal


@immutable
class NewToolCall:
    """What an agent asks for. `arguments` and `reason` are its own words; `deferred`: it will come back with a code."""

    tool: str
    arguments: Mapping[str, Any]
    reason: str | None = None
    call_id: str | None = None
    deferred: bool = False


@immutable
class CallEnded:
    """The end of a call that was let through. `refusal` is why the agent gets no result, whatever the platform did."""

    permitted: PermittedCall
    action: Action
    executed: Executed
    reduced: Reduced | None = None
    refusal: BrokerError | None = None
    retry_after_s: int | None = None
    response_bytes: int | None = None
    request_id: str | None = None  # the platform's own name for the request
    audit_pending: bool = False


@immutable
class _Granted:
    """What was granted, as the catalog here understands it. Only this is sent, never the agent's own words."""

    connection: Connection
    action: Action
    call: AnyCall
    intent: Intent
    rendered: RenderedCall


class CallTool:
    def __init__(
        self,
        deployment: Deployment,
        *,
        listing: Listing,
        decisions: CallDecisions,
        execute: Execute,
        mcp: McpSenders,
        running: RunningCalls,
        log: AuditLog,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._listing = listing
        self._decisions = decisions
        self._execute = execute
        self._mcp = mcp
        self._running = running
        self._log = log
        self._clock = clock
        self._randomness = randomness

    async def __call__(self, caller: ToolCaller, call: NewToolCall, facts: Facts, *, copies: int = 1) -> CallEnded:
        """`copies` is how often the result will be in the answer: its size is of all of them.

        Raises: BrokerError TOOL_UNKNOWN, SCOPE_NOT_GRANTABLE, INTENT_MALFORMED, RATE_LIMITED; RefusedElsewhere with what
        an exchange refuses; Unavailable.
        """
        tool = self._listing.find(caller, call.tool)
        facts.tool = _tool_facts(tool.action, tool.connection)
        detail = _detail(caller, tool, call)
        with self._running.place(tool.connection.id):
            permitted = await self._ask(
                self._decisions.decide(
                    caller.credentials,
                    connection=tool.connection.id,
                    detail=detail,
                    call_id=call.call_id,
                    deferred=call.deferred,
                    policy_version=self._deployment.policy_version,
                )
            )
            return await self._running.see_through(self._make(caller, permitted, facts, copies))

    async def resume(
        self,
        caller: ToolCaller,
        deferral_code: str,
        facts: Facts,
        *,
        copies: int = 1,
        expected: NewToolCall | None = None,
    ) -> CallEnded:
        """Go on with a call that waited for a person. `expected` is what the caller believes it to be: nothing else is sent.

        Raises: RefusedElsewhere, also while it still waits; BrokerError TOOL_UNKNOWN, SCOPE_NOT_GRANTABLE, INTENT_MALFORMED;
        Unavailable.
        """
        wanted = None if expected is None else self._intent(caller, expected).as_authorization_detail()
        permitted = await self._ask(
            self._decisions.resume(
                caller.credentials, deferral_code=deferral_code, policy_version=self._deployment.policy_version
            )
        )
        with self._running.place_taken(permitted.connection):
            return await self._running.see_through(self._make(caller, permitted, facts, copies, wanted))

    def _intent(self, caller: ToolCaller, call: NewToolCall) -> Intent:
        tool = self._listing.find(caller, call.tool)
        declared = validate_detail(DeclaredIntent, _detail(caller, tool, call))
        connection = tool.connection
        return check_against_catalog(
            declared, tool.action, connection=connection.id, resource=connection.resource, task=None
        )

    async def _ask(self, asking: Any) -> PermittedCall:
        try:
            permitted: PermittedCall = await asking
        except BrokerError as error:
            raise RefusedElsewhere(error) from error
        return permitted

    async def _make(
        self,
        caller: ToolCaller,
        permitted: PermittedCall,
        facts: Facts,
        copies: int,
        wanted: dict[str, Any] | None = None,
    ) -> CallEnded:
        """From here on there is an attempt on record: whatever happens, what came of it is published."""
        granted = self._granted(permitted)
        refusal = None
        if granted.rendered.digest != permitted.request_digest:  # two revisions during a roll-out
            refusal = BrokerError(Reason.POLICY_VERSION_SKEW, "The configuration is being changed. Try again.")
        elif wanted is not None and wanted != granted.intent.as_authorization_detail():
            refusal = BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code is of another call.")
        if refusal is not None:
            ended = CallEnded(permitted, granted.action, Executed("not_sent", 0), refusal=refusal)
        else:
            ended = await self._send(caller, permitted, granted, facts, copies)
        return await self._record(ended, caller, granted, facts)

    def _granted(self, permitted: PermittedCall) -> _Granted:
        connection = self._deployment.connection_by_id[permitted.connection]
        declared = validate_detail(DeclaredIntent, permitted.authorization_details[0])
        action = connection.action_by_id[declared.actions[0]]
        if action.call is None:
            raise BrokerError(Reason.CALL_NOT_CONFIGURED, "This action cannot be called here.")
        intent = check_against_catalog(
            declared, action, connection=connection.id, resource=connection.resource, task=None
        )
        return _Granted(connection, action, action.call, intent, render(action, connection, intent))

    async def _send(
        self, caller: ToolCaller, permitted: PermittedCall, granted: _Granted, facts: Facts, copies: int
    ) -> CallEnded:
        action, call = granted.action, granted.call
        token = permitted.access_token

        async def another_token() -> str:
            return await self._decisions.another_token(
                caller.credentials,
                attempt=permitted.attempt,
                rejected_token_sha256=token_sha256(token),
                policy_version=self._deployment.policy_version,
            )

        sendable = Sendable(
            request=granted.rendered,
            headers=self._headers(granted, permitted, facts),
            effect=action.effect,
            is_keyed=action.effect is not Effect.READ and is_keyed(action),
            timeout_s=call.timeout_s,
            success=call.success if isinstance(call, Call) else (),
        )
        execute = self._execute
        if isinstance(call, McpCall):
            user = digest("cab-mcp-user", caller.tenant, caller.subject, caller.agent.client_id)
            execute = Execute(
                *(self._mcp.sender(granted.connection, call, user=user, reads=reads) for reads in (True, False))
            )
        executed = await execute(sendable, token, another_token)
        answer, executed = (
            executed.answer,
            replace(executed, answer=None),
        )  # a mebibyte is not kept for the record's sake
        ended = CallEnded(
            permitted,
            action,
            executed,
            refusal=executed.refusal,
            retry_after_s=None if answer is None else answer.retry_after_s,
            response_bytes=None if answer is None else len(answer.body),
            request_id=None if answer is None else _request_id(answer),
        )
        if ended.refusal is not None:
            return ended
        if executed.token_refused and granted.connection.grant_kind is GrantKind.AUTHORIZATION_CODE:
            return replace(ended, refusal=self._needs_reauth(granted.connection))
        if executed.outcome == "done" and answer is not None:
            salt = self._randomness.token(SALT_BYTES)
            try:
                return replace(ended, reduced=reduce(answer, call.result, salt=salt, copies=copies))
            except AnswerRefused as refused:
                return replace(ended, refusal=refused.error())
        return replace(ended, refusal=_refusal_of(executed))

    def _needs_reauth(self, connection: Connection) -> BrokerError:
        return needs_reauth(self._deployment.broker.connect_uri(connection.id))

    def _headers(self, granted: _Granted, permitted: PermittedCall, facts: Facts) -> dict[str, str]:
        """Everything that is sent beside the token. Literal headers come first: none of them replaces one of ours."""
        call, content_type = granted.call, granted.rendered.content_type
        headers, wanted = dict(granted.rendered.headers), call.result.type
        headers["Accept"] = "application/json" if wanted is None else f"{wanted}, application/json"
        if content_type is not None:
            headers["Content-Type"] = content_type
        if isinstance(call, Call) and call.idempotency_key is not None:
            key, name = permitted.idempotency_key, call.idempotency_key
            headers[name] = f'"{key}"' if name.lower() == QUOTED_KEY_HEADER else key
        made = hashlib.sha256(self._randomness.token(16).encode()).hexdigest()
        headers["traceparent"] = f"00-{facts.context.trace_id or made[:32]}-{made[32:48]}-01"
        return headers

    # --- the record ---

    async def _record(self, ended: CallEnded, caller: ToolCaller, granted: _Granted, asked: Facts) -> CallEnded:
        intent = granted.intent
        facts = Facts(
            audit.EventType.TOOL_EXECUTED,
            asked.context,
            self._clock.now(),
            started_clock=asked.started_clock,
            tenant=asked.tenant,
            subject=asked.subject,
            actor=asked.actor,
            tool=_tool_facts(granted.action, granted.connection),
            intent=audit.IntentFacts(
                identifier=intent.identifier,
                parameters_digest=parameters_digest(intent.parameters),
                task_id=intent.task_id,
                intent_hash=ended.permitted.intent_hash,
            ),
            call=_call_facts(ended, granted.rendered),
            observed_by="broker",
            txn=caller.token.assertion.txn,
            latency={"upstream": ended.executed.latency_ms},
        )
        reason = ended.refusal.reason if ended.refusal else None
        event = facts.event(event_id=self._randomness.event_id(), outcome=facts.outcome, reason=reason)
        telling = self._told_beside(ended, granted.connection)
        try:
            await self._log.publish(event)
        except Unavailable:
            _log.warning("the outcome of call %s is not acknowledged yet", event.event_id)
            ended = replace(ended, audit_pending=True)
        finally:
            if telling is not None:
                await telling
        return ended

    def _told_beside(self, ended: CallEnded, connection: Connection) -> asyncio.Task[None] | None:
        """What the user's own page says of a change. It knows nothing of reads' ends, nor of systems that trust us directly."""
        on_page = ended.action.effect is not Effect.READ and connection.grant_kind is not GrantKind.BROKER_JWT
        if not on_page or ended.executed.interrupted:  # a process that must stop has no time
            return None
        return asyncio.create_task(self._tell(ended))

    async def _tell(self, ended: CallEnded) -> None:
        try:
            await self._decisions.tell(attempt=ended.permitted.attempt, outcome=ended.executed.outcome)
        except Unavailable:
            _log.warning("the page of the user of call %s does not say what came of it", ended.permitted.call_id)


def _detail(caller: ToolCaller, tool: CallableTool, call: NewToolCall) -> dict[str, Any]:
    """The intent as the agent declares it: within the user's task, where there is one."""
    detail = detail_of(tool.action, tool.connection, call.arguments, call.reason)
    task = caller.token.assertion.task
    return detail if task is None else {**detail, "task_id": task.task_id}


def _refusal_of(executed: Executed) -> BrokerError | None:
    """What an agent is told where there is no answer to give. A platform's no is an answer."""
    match executed.outcome:
        case "unknown":
            return BrokerError(Reason.CALL_OUTCOME_UNKNOWN, "The platform may have done it. Look before you repeat.")
        case "not_sent":
            return BrokerError(Reason.PROVIDER_UNAVAILABLE, "The platform cannot be reached. Nothing was sent.")
        case "failed":
            return BrokerError(Reason.PROVIDER_UNAVAILABLE, "The platform gave no usable answer.")
        case _:
            return None


def _request_id(answer: HttpAnswer) -> str | None:
    found = answer.headers.get("x-request-id", "")
    return found if _REQUEST_ID.fullmatch(found) else None


def _tool_facts(action: Action, connection: Connection) -> audit.Tool:
    return audit.Tool(
        connection=connection.id,
        provider=connection.provider,
        action=action.id,
        effect=action.effect.value,
        mode="call",
    )


def _call_facts(ended: CallEnded, rendered: RenderedCall) -> audit.CallFacts:
    executed, reduced = ended.executed, ended.reduced
    return audit.CallFacts(
        id=ended.permitted.call_id,
        method=rendered.method,
        host=rendered.host,
        path_template=rendered.path_template,
        request_digest=rendered.digest,
        request_bytes=rendered.size,
        attempts=executed.attempts,
        outcome=executed.outcome,
        cause="interrupted" if executed.interrupted else None,
        upstream_status=executed.status,
        upstream_request_id=ended.request_id,
        response_bytes=ended.response_bytes,
        response_commitment=reduced.commitment if reduced else None,
        items=reduced.items if reduced else None,
        content_type=reduced.content_type if reduced else None,
        marked_characters=reduced.marked_characters if reduced else None,
    )
