"""Discovery documents and key sets over HTTP: public, cacheable, read-only."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.identifiers import base64url
from cab.domain.intents import DeclaredIntent
from cab.domain.tasks import Task
from cab.encoding.canonical_json import canonical
from cab.encoding.json_schema import DIALECT, schema_of
from cab.ports import Clock, Randomness, Unavailable
from cab.protocol import metadata
from cab.protocol.names import ACTION_TYPE, TASK_TYPE
from cab.stores.remembered import Remembered
from cab.stores.signing_keys import JWKS_MAX_AGE, JWKS_REMEMBERED, Issuer, SigningKeys
from cab.transport import openapi
from cab.transport.requests import health, refusal_response

CACHEABLE: Final = {
    "Cache-Control": f"public, max-age={int(JWKS_MAX_AGE.total_seconds())}",
    "Access-Control-Allow-Origin": "*",
}
RETRY_AFTER: Final = timedelta(seconds=5)  # how long a store that failed is not asked again


class PublishedDocument:
    """Bytes with their entity tag (RFC 9110 section 8.8.3): the same content has the same tag at every instance."""

    def __init__(self, content: object) -> None:
        self.body = canonical(content)  # a store may give members back in any order
        self.tag = f'"{base64url(hashlib.sha256(self.body).digest())}"'

    def is_known(self, if_none_match: list[str]) -> bool:
        """Whether the caller has it. Tags are compared weakly (RFC 9110 section 13.1.2): a proxy that compresses weakens them."""
        tags = {tag.strip().removeprefix("W/") for header in if_none_match for tag in header.split(",")}
        return self.tag in tags or "*" in tags


class PublishedKeys:
    """One issuer's key set as this instance remembers it: however many strangers ask, the store is read once in a while.

    While the store is away or slow the last set stays good: an outage must not fail or hold verifications.
    """

    def __init__(self, issuer: Issuer, keys: SigningKeys, clock: Clock) -> None:
        self._issuer = issuer
        self._keys = keys
        self._document = Remembered(self._read, clock, fresh_for=JWKS_REMEMBERED, retry_after=RETRY_AFTER)

    async def document(self) -> PublishedDocument:
        """Raises: BrokerError STORE_UNAVAILABLE while none was ever read."""
        try:
            return await self._document.get()
        except Unavailable:
            raise BrokerError(Reason.STORE_UNAVAILABLE, "No keys are known yet.") from None

    async def _read(self) -> PublishedDocument:
        ring = await self._keys.ring(self._issuer)
        if ring is None:  # before `cab keys init`
            raise Unavailable("documents")
        return PublishedDocument(ring.jwks())


class MetadataEndpoints:
    def __init__(self, deployment: Deployment, keys: SigningKeys, clock: Clock, randomness: Randomness) -> None:
        described = PublishedDocument(metadata.document(deployment))
        self._documents = dict.fromkeys(metadata.METADATA_PATHS, described) | {
            metadata.DETAILS_METADATA_PATH: PublishedDocument(
                {
                    ACTION_TYPE: {"schema": {"$schema": DIALECT} | schema_of(DeclaredIntent)},
                    TASK_TYPE: {"schema": {"$schema": DIALECT} | schema_of(Task)},
                }
            ),
            openapi.PATH: PublishedDocument(openapi.document(deployment.broker.origin)),
        }
        self._key_sets = {path: PublishedKeys(Issuer(name), keys, clock) for name, path in metadata.JWKS_PATHS.items()}
        self._randomness = randomness

    async def handle(self, request: Request) -> Response:
        path, txn = request.url.path, self._randomness.token(16)
        if path == "/health":
            return health(txn)
        try:
            # Whatever no other function answers comes here: a wrong path must not be told to use GET.
            if path not in self._key_sets and path not in self._documents:
                raise BrokerError(Reason.NOT_FOUND, "There is no such document or endpoint.")
            if request.method not in ("GET", "HEAD"):
                raise BrokerError(Reason.METHOD_NOT_ALLOWED, "Use GET.")
            document = await self._document(path)
        except BrokerError as error:
            response = refusal_response(error, txn=txn)
            if error.reason is Reason.METHOD_NOT_ALLOWED:
                response.headers["Allow"] = "GET, HEAD"
            return response
        headers = CACHEABLE | {"CAB-Txn": txn, "ETag": document.tag}
        if document.is_known(request.headers.getlist("if-none-match")):
            return Response(status_code=304, headers=headers)
        return Response(document.body, media_type="application/json", headers=headers)

    async def _document(self, path: str) -> PublishedDocument:
        key_set = self._key_sets.get(path)
        if key_set is not None:
            return await key_set.document()
        return self._documents[path]
