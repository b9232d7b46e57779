"""`SecretVault` in Google Secret Manager, by version number only."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

import google_crc32c
from google.iam.v1 import iam_policy_pb2
from grpc import StatusCode

from cab.adapters import spans
from cab.adapters.google_cloud.pubsub.messages import load
from cab.adapters.google_cloud.rpc import GoogleApi, Method, Refused, routing
from cab.adapters.secret_names import checked_secret, checked_version
from cab.ports import NotFound, Unavailable

_requests = load("google.cloud.secretmanager_v1", "service")
_resources = load("google.cloud.secretmanager_v1", "resources")
_AccessRequest = _requests.AccessSecretVersionRequest.pb()
_AddRequest = _requests.AddSecretVersionRequest.pb()
_CreateRequest = _requests.CreateSecretRequest.pb()
_DestroyRequest = _requests.DestroySecretVersionRequest.pb()

_SERVICE = "/google.cloud.secretmanager.v1.SecretManagerService/"
_ACCESS = Method(_SERVICE + "AccessSecretVersion", _requests.AccessSecretVersionResponse.pb())
_ADD = Method(_SERVICE + "AddSecretVersion", _resources.SecretVersion.pb())
_CREATE = Method(_SERVICE + "CreateSecret", _resources.Secret.pb())
_DESTROY = Method(_SERVICE + "DestroySecretVersion", _resources.SecretVersion.pb())
_TEST_PERMISSIONS = Method(_SERVICE + "TestIamPermissions", iam_policy_pb2.TestIamPermissionsResponse)

_logger = logging.getLogger(__name__)

_WHAT = "secrets"
_READ_BUDGET_S = 2.0
_WRITE_BUDGET_S = 3.0
_RETRY = frozenset({StatusCode.UNAVAILABLE})
_ABSENT = frozenset({StatusCode.NOT_FOUND})
_UNREADABLE = _ABSENT | {StatusCode.FAILED_PRECONDITION}  # the latter: destroyed, or disabled by an operator
_EXISTS = frozenset({StatusCode.ALREADY_EXISTS})
_ADD_PERMISSION = "secretmanager.versions.add"


class SecretManagerVault:
    """The secrets of one project. Honours SECRET_MANAGER_EMULATOR_HOST. Belongs to the event loop of its first call.

    `location` is where new secrets are kept, under `kms_key` if that is given; without a location Google chooses. It keeps
    nothing in memory.
    """

    def __init__(self, project: str, *, location: str | None = None, kms_key: str | None = None) -> None:
        self._parent = f"projects/{project}"
        self._location = location
        self._kms_key = kms_key
        self._api = GoogleApi(
            _WHAT, host="secretmanager.googleapis.com", emulator_variable="SECRET_MANAGER_EMULATOR_HOST"
        )

    @spans.a_wait("secrets access")
    async def access(self, secret: str, version: int) -> bytes:
        name = self._version_name(secret, version)
        try:
            response = await self._call(_ACCESS, _AccessRequest(name=name), "name", name, expected=_UNREADABLE)
        except Refused:
            raise NotFound from None
        payload: bytes = response.payload.data
        if not response.payload.HasField("data_crc32c") or response.payload.data_crc32c != _crc32c(payload):
            _logger.error("a secret payload does not match its checksum")
            raise Unavailable(_WHAT)
        return payload

    @spans.a_wait("secrets create")
    async def create(self, secret: str) -> None:
        request = _CreateRequest(parent=self._parent, secret_id=checked_secret(secret))
        replication = request.secret.replication
        if self._location is None:
            replication.automatic.SetInParent()
        else:
            replica = replication.user_managed.replicas.add(location=self._location)
            if self._kms_key is not None:
                replica.customer_managed_encryption.kms_key_name = self._kms_key
        try:
            await self._call(_CREATE, request, "parent", self._parent, budget_s=_WRITE_BUDGET_S, expected=_EXISTS)
        except Refused:
            return

    @spans.a_wait("secrets add")
    async def add(self, secret: str, payload: bytes) -> int:
        parent = self._secret_name(secret)
        request = _AddRequest(parent=parent)
        request.payload.data = payload
        request.payload.data_crc32c = _crc32c(payload)  # Secret Manager refuses a payload that does not match
        added = await self._call(_ADD, request, "parent", parent, budget_s=_WRITE_BUDGET_S, retry_on=frozenset())
        return int(added.name.rpartition("/")[2])  # the rest of the name may hold the project's number, not its id

    @spans.a_wait("secrets destroy")
    async def destroy(self, secret: str, version: int) -> None:
        name = self._version_name(secret, version)
        try:
            await self._call(
                _DESTROY, _DestroyRequest(name=name), "name", name, budget_s=_WRITE_BUDGET_S, expected=_UNREADABLE
            )
        except Refused:
            return

    @spans.a_wait("secrets may_add")
    async def may_add(self, secret: str) -> bool:
        name = self._secret_name(secret)
        request = iam_policy_pb2.TestIamPermissionsRequest(resource=name, permissions=[_ADD_PERMISSION])
        try:
            response = await self._call(_TEST_PERMISSIONS, request, "resource", name, expected=_ABSENT)
        except Refused:
            return False
        return _ADD_PERMISSION in response.permissions

    async def close(self) -> None:
        """Let go of the connection. A later call opens a new one."""
        await self._api.close()

    async def _call(
        self,
        method: Method,
        request: Any,
        routed_by: str,
        resource: str,
        *,
        budget_s: float = _READ_BUDGET_S,
        retry_on: frozenset[StatusCode] = _RETRY,
        expected: frozenset[StatusCode] = frozenset(),
    ) -> Any:
        header = routing({routed_by: quote(resource, safe="")})
        return await self._api.call(
            method, request, budget_s=budget_s, metadata=(header,), retry_on=retry_on, expected=expected
        )

    def _secret_name(self, secret: str) -> str:
        return f"{self._parent}/secrets/{checked_secret(secret)}"

    def _version_name(self, secret: str, version: int) -> str:
        return f"{self._secret_name(secret)}/versions/{checked_version(version)}"


def _crc32c(payload: bytes) -> int:
    checksum: int = google_crc32c.value(payload)
    return checksum
