"""What an agent is told of a call, the same by HTTP and by MCP, and how a refused one is challenged."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.protocol.metadata import TOOLS_METADATA_PATH
from cab.protocol.oauth_errors import error_body, error_headers, status_of
from cab.transport.requests import NO_STORE, single_header
from cab.use_cases.calls.call import CallEnded

UNTRUSTED: Final = "untrusted"
# At a resource these mean something else than at the token endpoint (RFC 6750 section 3.1, RFC 9470 section 3).
_AS_A_RESOURCE: Final = {
    Reason.SCOPE_NOT_GRANTABLE: ("insufficient_scope", 403),
    Reason.STEP_UP_REQUIRED: ("insufficient_user_authentication", 401),
}


def facts_of(ended: CallEnded) -> dict[str, Any]:
    """Names and digests under which the call is recorded."""
    permitted = ended.permitted
    facts: dict[str, Any] = {
        "intent_hash": permitted.intent_hash,
        "request_digest": permitted.request_digest,
        "call_id": permitted.call_id,
    }
    if ended.audit_pending:
        facts["audit"] = "pending"
    return facts


def result_body(ended: CallEnded, *, txn: str) -> bytes:
    """200: the platform answered, be it with a no."""
    body: dict[str, Any] = {"outcome": ended.executed.outcome, "result": None}
    if ended.reduced is not None:
        body["result"] = orjson.Fragment(ended.reduced.body)
        body["result_salt"] = ended.reduced.salt
    body["upstream"] = {"status": ended.executed.status}
    if ended.retry_after_s is not None:
        body["retry_after_s"] = ended.retry_after_s
    body |= {"trust": UNTRUSTED, "source": ended.permitted.connection}
    body["authorization_details"] = ended.permitted.authorization_details
    return orjson.dumps(body | facts_of(ended) | {"txn": txn})


def credentials_of(request: Request) -> tuple[str | None, str | None]:
    """The headers Authorization and DPoP. Raises: BrokerError CALL_TOKEN_INVALID, DPOP_PROOF_INVALID for repeated ones."""
    try:
        authorization = single_header(request, "authorization")
    except BrokerError as error:
        raise BrokerError(Reason.CALL_TOKEN_INVALID, error.detail, why="two Authorization headers") from error
    return authorization, single_header(request, "dpop")


class Refusals:
    """Refusals as a protected resource gives them, with the challenge that tells a client where to go."""

    def __init__(self, deployment: Deployment) -> None:
        self._metadata = f"{deployment.broker.origin}{TOOLS_METADATA_PATH}"

    def response(
        self, refusal: BrokerError, *, txn: str, scopes: tuple[str, ...] = (), ended: CallEnded | None = None
    ) -> Response:
        """`scopes` are all that the agent could use; `ended` is the call, if it was made."""
        body = error_body(refusal, txn=txn)
        if refusal.reason in _AS_A_RESOURCE:
            body["error"] = _AS_A_RESOURCE[refusal.reason][0]
        if ended is not None:
            body |= facts_of(ended) | {"outcome": ended.executed.outcome}
            if ended.executed.status is not None:
                body["upstream"] = {"status": ended.executed.status}
        status = self.status(refusal)
        headers = NO_STORE | {"CAB-Txn": txn} | error_headers(refusal)
        if status in (401, 403):
            headers["WWW-Authenticate"] = self.challenge(refusal, scopes)
        return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)

    @staticmethod
    def status(refusal: BrokerError) -> int:
        known = _AS_A_RESOURCE.get(refusal.reason)
        return status_of(refusal.reason) if known is None else known[1]

    def challenge(self, refusal: BrokerError, scopes: tuple[str, ...] = ()) -> str:
        """RFC 6750 section 3, RFC 9470 section 3, RFC 9728 section 5.1."""
        error = _AS_A_RESOURCE.get(refusal.reason, ("invalid_token", 401))[0]
        said = {"resource_metadata": self._metadata, "error": error}
        if refusal.remedy.acr_values is not None:
            said["acr_values"] = refusal.remedy.acr_values
        if refusal.remedy.max_age_s is not None:
            said["max_age"] = str(refusal.remedy.max_age_s)
        if scopes:
            said["scope"] = " ".join(scopes)
        return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in said.items())
