"""JSON bodies of exchange_token: the internal route of `call_tool`, and the outcomes that agents and resources report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from cab.domain import audit
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.encoding import strict_json
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.exchange.calls.internal import (
    CallRequest,
    DecideCall,
    NewCall,
    PendingCall,
    PresentedToken,
    RefusedCall,
)
from cab.use_cases.exchange.calls.outcomes import OutcomeReport, ReportedOutcome, ReportOutcome
from cab.use_cases.exchange.calls.told import NoteOutcome
from cab.use_cases.identity.authenticate_client import Credentials
from cab.use_cases.identity.authenticate_service import ServiceAuthenticator

JSON_MEDIA_TYPE = "application/json"
Token = Annotated[str, StringConstraints(min_length=1, max_length=16_384)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\Z")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha-256:[A-Za-z0-9_-]{43}\Z")]
CallId = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}\Z")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
CREDENTIALS = frozenset({"client_id", "client_assertion_type", "client_assertion", "client_secret"})

_Shape = TypeVar("_Shape", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, hide_input_in_errors=True, regex_engine="python-re", defer_build=True
    )


class _Proof(_Body):
    proof: Token
    method: Text
    url: Text


class _Call(_Body):
    """A new call (`connection`, `detail`), one that waits (`deferral_code`), or one whose token was refused (`attempt`)."""

    call_token: Token
    policy_version: Text
    awaited_until: Annotated[int, Field(ge=0, le=10**14)] | None = None  # milliseconds since 1970
    dpop: _Proof | None = None
    connection: Text | None = None
    detail: dict[str, Any] | None = None
    call_id: CallId | None = None
    deferred: bool = False
    deferral_code: Text | None = None
    attempt: Token | None = None
    rejected_token_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _is_one_of_three(self) -> _Call:
        new = self.connection is not None and self.detail is not None
        pending = self.deferral_code is not None
        refused = self.attempt is not None and self.rejected_token_sha256 is not None
        if new + pending + refused != 1:
            raise ValueError("give a call, a deferral_code or an attempt")
        return self

    def request(self) -> CallRequest:
        proof = self.dpop
        presented = PresentedToken(
            self.call_token,
            dpop_proof=proof.proof if proof else None,
            dpop_url=proof.url if proof else None,
            dpop_method=proof.method if proof else "POST",
        )
        if self.deferral_code is not None:
            return PendingCall(presented, self.deferral_code)
        if self.attempt is not None and self.rejected_token_sha256 is not None:
            return RefusedCall(presented, self.attempt, self.rejected_token_sha256)
        return NewCall(presented, self.connection or "", self.detail or {}, self.call_id, self.deferred)


class InternalCalls:
    """For one caller, known by its Google identity; who the user and the agent are says the call token alone."""

    def __init__(self, decide: DecideCall, services: ServiceAuthenticator, callers: frozenset[str]) -> None:
        self._decide = decide
        self._services = services
        self._callers = callers

    async def __call__(self, body: dict[str, Any], credentials: Credentials, facts: Facts) -> dict[str, Any]:
        await _identify(self._services, self._callers, credentials, facts)
        call = parse(_Call, body)
        until = None if call.awaited_until is None else datetime.fromtimestamp(call.awaited_until / 1000, UTC)
        return await self._decide(call.request(), call.policy_version, facts, awaited_until=until)


class _Told(_Body):
    attempt: Token
    outcome: audit.CallOutcome


class ToldOutcomes:
    """For the same caller: what came of a call that it was let make."""

    def __init__(self, note: NoteOutcome, services: ServiceAuthenticator, callers: frozenset[str]) -> None:
        self._note = note
        self._services = services
        self._callers = callers

    async def __call__(self, body: dict[str, Any], credentials: Credentials, facts: Facts) -> None:
        await _identify(self._services, self._callers, credentials, facts)
        told = parse(_Told, body)
        await self._note(told.attempt, told.outcome)


async def _identify(
    services: ServiceAuthenticator, callers: frozenset[str], credentials: Credentials, facts: Facts
) -> None:
    account = await services.authenticate(credentials.authorization, allowed=callers)
    facts.client_authenticated = True
    facts.actor = audit.Actor(client_id=account.partition("@")[0])


class _Report(_Body):
    outcome: ReportedOutcome
    token_sha256: Sha256 | None = None
    token: Token | None = None
    txn: Text | None = None
    intent_hash: Digest | None = None
    upstream_status: Annotated[int, Field(ge=100, le=599)] | None = None
    upstream_request_id: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,200}\Z")] | None = None
    request_digest: Digest | None = None


class Outcomes:
    """`POST /oauth2/outcomes`: the report and, unless they are in the header, the client's credentials in one JSON object."""

    def __init__(self, report: ReportOutcome) -> None:
        self._report = report

    async def __call__(self, body: dict[str, Any], credentials: Credentials, facts: Facts) -> None:
        said = parse(_Report, {name: value for name, value in body.items() if name not in CREDENTIALS})
        await self._report(OutcomeReport(**said.model_dump()), credentials, facts)


def parse_json(body: bytes) -> dict[str, Any]:
    """Raises: BrokerError PARAMETER_INVALID."""
    try:
        content = strict_json.load_object(body)
    except strict_json.InvalidJson as error:
        raise BrokerError(Reason.PARAMETER_INVALID, "The body must be one JSON object.") from error
    for name in CREDENTIALS & content.keys():
        if not isinstance(content[name], str):
            raise _invalid(name)
    return content


def parse(shape: type[_Shape], content: dict[str, Any]) -> _Shape:
    """Raises: BrokerError PARAMETER_INVALID, naming the member at fault."""
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        location = error.errors(include_input=False, include_url=False, include_context=False)[0]["loc"]
        raise _invalid(str(location[0]) if location and location[0] in shape.model_fields else None) from error


def _invalid(member: str | None) -> BrokerError:
    detail = "The body is not valid." if member is None else f"The member {member} is not valid."
    return BrokerError(Reason.PARAMETER_INVALID, detail, remedy=Remedy(member=member))
