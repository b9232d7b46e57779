"""Discovery documents and key sets over HTTP: public, cacheable, read-only."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from cab.domain.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import DeclaredIntent
from cab.domain.tasks import Task
from cab.ports import Randomness, Unavailable
from cab.protocol import metadata, openapi
from cab.protocol.json_schema import DIALECT, schema_of
from cab.protocol.names import ACTION_TYPE, TASK_TYPE
from cab.stores.signing_keys import JWKS_MAX_AGE, Issuer, KeyRing, SigningKeys
from cab.transport.oauth_http import refusal_response
from cab.transport.requests import health

CACHEABLE = {
    "Cache-Control": f"public, max-age={int(JWKS_MAX_AGE.total_seconds())}",
    "Access-Control-Allow-Origin": "*",
}


class MetadataEndpoints:
    def __init__(self, deployment: Deployment, keys: SigningKeys, randomness: Randomness) -> None:
        self._document = orjson.dumps(metadata.document(deployment))
        self._details_types = orjson.dumps(
            {
                ACTION_TYPE: {"schema": {"$schema": DIALECT} | schema_of(DeclaredIntent)},
                TASK_TYPE: {"schema": {"$schema": DIALECT} | schema_of(Task)},
            }
        )
        self._openapi = orjson.dumps(openapi.document(deployment.broker.origin))
        self._keys = keys
        self._randomness = randomness
        self._issuer_by_path = {path: Issuer(name) for name, path in metadata.JWKS_PATHS.items()}
        self._last_good: dict[Issuer, KeyRing] = {}

    async def handle(self, request: Request) -> Response:
        path, txn = request.url.path, self._randomness.token(16)
        if path == "/health":
            return health(txn)
        try:
            if request.method not in ("GET", "HEAD"):
                raise BrokerError(Reason.METHOD_NOT_ALLOWED, "Use GET.")
            headers = CACHEABLE | {"CAB-Txn": txn}
            return Response(await self._content(path), media_type="application/json", headers=headers)
        except BrokerError as error:
            response = refusal_response(error, txn=txn)
            if error.reason is Reason.METHOD_NOT_ALLOWED:
                response.headers["Allow"] = "GET, HEAD"
            return response

    async def _content(self, path: str) -> bytes:
        if path in metadata.METADATA_PATHS:
            return self._document
        if path == metadata.DETAILS_METADATA_PATH:
            return self._details_types
        if path == openapi.PATH:
            return self._openapi
        issuer = self._issuer_by_path.get(path)
        if issuer is None:
            raise BrokerError(Reason.NOT_FOUND, "There is no such document.")
        return orjson.dumps(await self._jwks(issuer))

    async def _jwks(self, issuer: Issuer) -> dict[str, Any]:
        """The current set; while the store is away, the last one this instance saw: an outage must not fail verifications."""
        try:
            ring = await self._keys.ring(issuer)
        except Unavailable as error:
            if issuer not in self._last_good:
                raise BrokerError(Reason.STORE_UNAVAILABLE) from error
        else:
            if ring is None:
                raise BrokerError(Reason.STORE_UNAVAILABLE, "No keys have been made yet.")
            self._last_good[issuer] = ring
        return self._last_good[issuer].jwks()
