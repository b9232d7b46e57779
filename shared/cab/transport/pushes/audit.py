"""Pub/Sub push of audit messages: the wrapped JSON body, the caller's OIDC token, and status codes that mean ack or retry."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import SchemaValidator, core_schema
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cab.domain.errors import BrokerError
from cab.ports import Randomness, Unavailable
from cab.protocol.oauth_errors import status_of
from cab.transport.requests import health, received, single_header
from cab.use_cases.audit.auditor import log_bug
from cab.use_cases.audit.ingest import IngestAuditEvent, PushedMessage
from cab.use_cases.audit.lines import tell_unrecorded
from cab.use_cases.identity.authenticate_service import ServiceAuthenticator

MAX_PUSH_BYTES: Final = 262_144  # base64 and wrapping around an event of at most 64 KiB, with room
_MEMBER: Final = core_schema.typed_dict_field
_MESSAGE: Final = core_schema.typed_dict_schema(
    {
        "data": _MEMBER(core_schema.bytes_schema(), required=False),
        "messageId": _MEMBER(core_schema.str_schema()),
    },
    config=core_schema.CoreConfig(val_json_bytes="base64"),  # which is read in a tenth of binascii's time
)
# The wrapping is Pub/Sub's, and may have more members; what it holds is read strictly.
_PUSH: Final = SchemaValidator(
    core_schema.typed_dict_schema({"message": _MEMBER(_MESSAGE), "subscription": _MEMBER(core_schema.str_schema())})
)


class AuditPush:
    def __init__(
        self,
        ingest: IngestAuditEvent,
        *,
        services: ServiceAuthenticator,
        push_account: str,
        subscription: str,
        randomness: Randomness,
    ) -> None:
        self._ingest = ingest
        self._services = services
        self._allowed = frozenset({push_account})
        self._subscription = subscription
        self._randomness = randomness

    async def handle(self, request: Request) -> Response:
        if request.scope["path"] == "/health":  # request.url would build it from the Host header too
            return health()
        if request.method != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        try:
            await self._services.authenticate(single_header(request, "authorization"), allowed=self._allowed)
            message = _read(await received(request, most=MAX_PUSH_BYTES), self._subscription)
            if message is None:
                return Response(status_code=400)
            await self._ingest(message)
        except BrokerError as error:
            tell_unrecorded(error)
            return Response(status_code=status_of(error.reason))
        except ClientDisconnect:  # Pub/Sub went away while it sent: it delivers again
            return Response(status_code=400)
        except Unavailable:
            return Response(status_code=503)
        except Exception as error:  # noqa: BLE001  # a bug: delivered again, then dead-lettered, never lost
            log_bug(error, txn=self._randomness.token(16))
            return Response(status_code=500)
        return Response(status_code=204)


def _read(body: bytes, subscription: str) -> PushedMessage | None:
    """The message, or None when this is not a push of our subscription."""
    if len(body) > MAX_PUSH_BYTES:
        return None
    try:
        push: Any = _PUSH.validate_json(body)
    except ValueError:
        return None
    if push["subscription"] != subscription:
        return None
    return PushedMessage(push["message"].get("data", b""), push["message"]["messageId"])
