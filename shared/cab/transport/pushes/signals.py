"""`POST /ssf/events`: a security event token as the body (RFC 8935 section 2). 202 and nothing when it is in force."""

from __future__ import annotations

from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from cab.domain.audit import EventType
from cab.domain.errors import BrokerError, Reason
from cab.ports import Randomness
from cab.protocol.oauth_errors import error_headers, status_of
from cab.transport.requests import NO_STORE, context_of, read_body
from cab.use_cases.audit.auditor import Auditor, Facts
from cab.use_cases.people.signals import ReceiveSignals

PATH: Final = "/ssf/events"
MEDIA_TYPE: Final = "application/secevent+jwt"


class SignalEndpoint:
    def __init__(self, receive: ReceiveSignals, auditor: Auditor, randomness: Randomness) -> None:
        self._receive = receive
        self._auditor = auditor
        self._randomness = randomness

    async def handle(self, request: Request) -> Response:
        async def work(facts: Facts) -> None:
            body = await read_body(request, media_type=MEDIA_TYPE)
            try:
                token = body.decode("ascii").strip()
            except UnicodeDecodeError as error:
                raise BrokerError(Reason.SUBJECT_TOKEN_INVALID, "The body is no token.", why="malformed") from error
            await self._receive(token, facts)

        answered = await self._auditor.run(EventType.SIGNAL_RECEIVED, context_of(request, self._randomness), work)
        headers = NO_STORE | {"CAB-Txn": answered.txn}
        if answered.refusal is None:
            return Response(status_code=202, headers=headers)
        return _refused(answered.refusal, headers)


def _refused(refusal: BrokerError, headers: dict[str, str]) -> Response:
    """RFC 8935 section 2.4. One code for every fault of the token: which one it was is in the audit."""
    body = orjson.dumps({"err": "invalid_request", "description": refusal.detail})
    headers = headers | error_headers(refusal) | {"Content-Language": "en"}
    return Response(body, status_of(refusal.reason), headers, media_type="application/json")
