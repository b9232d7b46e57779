"""`CallDecisions` over HTTP: how call_tool asks exchange_token, with its own Google identity."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from cab.domain.audit import CallOutcome
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.encoding import strict_json
from cab.ports import (
    AnswerTooLarge,
    CallCredentials,
    Clock,
    HttpAnswer,
    JsonPoster,
    PermittedCall,
    ServiceTokens,
    Unavailable,
)

WHAT: Final = "decisions"
PATH: Final = "/internal/calls"
TELL_PATH: Final = "/internal/outcomes"
TELL_TIMEOUT_S: Final = 2.0
TIMEOUT_S: Final = 15.0  # exchange_token itself gives up on others within 12
WAY_BACK_S: Final = 1.0  # kept for the answer, and for two clocks that differ


class ExchangeTokenClient:
    def __init__(self, url: str, http: JsonPoster, identity: ServiceTokens, clock: Clock) -> None:
        self._url = url
        self._http = http
        self._identity = identity
        self._clock = clock

    async def decide(
        self,
        credentials: CallCredentials,
        *,
        connection: str,
        detail: Mapping[str, Any],
        call_id: str | None,
        deferred: bool,
        policy_version: str,
    ) -> PermittedCall:
        asked: dict[str, Any] = {"connection": connection, "detail": dict(detail), "deferred": deferred}
        if call_id is not None:
            asked["call_id"] = call_id
        return _permitted(await self._post(credentials, policy_version, asked))

    async def resume(self, credentials: CallCredentials, *, deferral_code: str, policy_version: str) -> PermittedCall:
        return _permitted(await self._post(credentials, policy_version, {"deferral_code": deferral_code}))

    async def another_token(
        self, credentials: CallCredentials, *, attempt: str, rejected_token_sha256: str, policy_version: str
    ) -> str:
        asked = {"attempt": attempt, "rejected_token_sha256": rejected_token_sha256}
        return _permitted(await self._post(credentials, policy_version, asked)).access_token

    async def tell(self, *, attempt: str, outcome: CallOutcome) -> None:
        document = {"attempt": attempt, "outcome": outcome}
        answer = await self._send(TELL_PATH, document, await self._headers(), timeout_s=TELL_TIMEOUT_S)
        if answer.status != 204:
            raise Unavailable(WHAT)

    async def _post(self, credentials: CallCredentials, policy_version: str, asked: dict[str, Any]) -> dict[str, Any]:
        document = {"call_token": credentials.call_token, "policy_version": policy_version, **asked}
        if credentials.dpop_proof is not None:
            document["dpop"] = {
                "proof": credentials.dpop_proof,
                "method": credentials.method,
                "url": credentials.url,
            }
        headers = await self._headers()
        # What comes later is not taken: whoever decides must know, or the record would have an attempt that nobody made.
        awaited_until = self._clock.now() + timedelta(seconds=TIMEOUT_S - WAY_BACK_S)
        document["awaited_until"] = int(awaited_until.timestamp() * 1000)
        answer = await self._send(PATH, document, headers, timeout_s=TIMEOUT_S)
        try:
            content = strict_json.load_object(answer.body)
        except strict_json.InvalidJson as error:
            raise Unavailable(WHAT) from error
        if answer.status != 200:
            raise _refusal(answer, content)
        return content

    async def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {await self._identity.identity_token(self._url)}"}

    async def _send(
        self, path: str, document: dict[str, Any], headers: dict[str, str], *, timeout_s: float
    ) -> HttpAnswer:
        try:
            return await self._http.post_json(f"{self._url}{path}", document, headers=headers, timeout_s=timeout_s)
        except AnswerTooLarge as error:
            raise Unavailable(WHAT) from error


def _permitted(answer: dict[str, Any]) -> PermittedCall:
    try:
        return PermittedCall(
            access_token=answer["access_token"],
            connection=answer["connection"],
            authorization_details=answer["authorization_details"],
            intent_hash=answer["intent_hash"],
            request_digest=answer["request_digest"],
            call_id=answer["call_id"],
            idempotency_key=answer["idempotency_key"],
            attempt=answer["attempt"],
        )
    except KeyError as error:  # another revision answers otherwise: an outage, for as long as it lasts
        raise Unavailable(WHAT) from error


def _refusal(answer: HttpAnswer, content: dict[str, Any]) -> Exception:
    """The refusal as exchange_token gave it. A refusal of *us* (wrong identity, wrong shape) is our outage."""
    try:
        reason = Reason(content.get("reason_code", ""))
    except ValueError:
        return Unavailable(WHAT)
    if reason in (Reason.CLIENT_AUTHENTICATION_FAILED, Reason.PARAMETER_INVALID, Reason.INTERNAL_ERROR):
        return Unavailable(WHAT)
    remedy = Remedy(
        retry_after_s=answer.retry_after_s,
        interaction_uri=content.get("interaction_uri"),
        acr_values=content.get("acr_values"),
        max_age_s=content.get("max_age"),
        deferral_code=content.get("deferral_code"),
        interval_s=content.get("interval"),
        expires_in_s=content.get("expires_in"),
        member=content.get("parameter"),
    )
    return BrokerError(reason, content.get("error_description", ""), remedy=remedy)
