"""`SecretVault` in Google Secret Manager, by version number only."""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import google_crc32c

from cab.adapters import spans
from cab.adapters.google_cloud.rest import GoogleApi, Refused, Status
from cab.adapters.secret_names import checked_secret, checked_version
from cab.ports import NotFound

_logger = logging.getLogger(__name__)

_WHAT = "secrets"
_READ_BUDGET_S = 2.0
_WRITE_BUDGET_S = 3.0
_RETRY = frozenset({Status.UNAVAILABLE})
_ABSENT = frozenset({Status.NOT_FOUND})
_UNREADABLE = _ABSENT | {Status.FAILED_PRECONDITION}  # the latter: destroyed, or disabled by an operator
_EXISTS = frozenset({Status.ALREADY_EXISTS})
_ADD_PERMISSION = "secretmanager.versions.add"

_Read = TypeVar("_Read")


class SecretManagerVault:
    """The secrets of one project. Honours SECRET_MANAGER_EMULATOR_HOST. Belongs to the event loop of its first call.

    `location` is where new secrets are kept, under `kms_key` if that is given; without a location Google chooses. It keeps
    nothing in memory.
    """

    def __init__(self, project: str, *, location: str | None = None, kms_key: str | None = None) -> None:
        self._parent = f"/v1/projects/{quote(project, safe='')}"
        self._location = location
        self._kms_key = kms_key
        self._api = GoogleApi(
            _WHAT, host="secretmanager.googleapis.com", emulator_variable="SECRET_MANAGER_EMULATOR_HOST"
        )

    @spans.a_wait("secrets access")
    async def access(self, secret: str, version: int) -> bytes:
        url = f"{self._version_url(secret, version)}:access"
        try:
            return await self._call("AccessSecretVersion", url, read=_checked_payload, expected=_UNREADABLE)
        except Refused:
            raise NotFound from None

    @spans.a_wait("secrets create")
    async def create(self, secret: str) -> None:
        replication: dict[str, Any] = {"automatic": {}}
        if self._location is not None:
            replica: dict[str, Any] = {"location": self._location}
            if self._kms_key is not None:
                replica["customerManagedEncryption"] = {"kmsKeyName": self._kms_key}
            replication = {"userManaged": {"replicas": [replica]}}
        try:
            await self._call(
                "CreateSecret",
                f"{self._parent}/secrets?secretId={checked_secret(secret)}",
                {"replication": replication},
                read=_unread,
                budget_s=_WRITE_BUDGET_S,
                expected=_EXISTS,
            )
        except Refused:
            return

    @spans.a_wait("secrets add")
    async def add(self, secret: str, payload: bytes) -> int:
        # Secret Manager refuses a payload that does not match its checksum.
        content = {"data": b64encode(payload).decode(), "dataCrc32c": str(google_crc32c.value(payload))}
        return await self._call(
            "AddSecretVersion",
            f"{self._secret_url(secret)}:addVersion",
            {"payload": content},
            read=lambda added: int(
                added["name"].rpartition("/")[2]
            ),  # the rest may hold the project's number, not its id
            budget_s=_WRITE_BUDGET_S,
            retry_on=frozenset(),
        )

    @spans.a_wait("secrets destroy")
    async def destroy(self, secret: str, version: int) -> None:
        url = f"{self._version_url(secret, version)}:destroy"
        try:
            await self._call(
                "DestroySecretVersion", url, {}, read=_unread, budget_s=_WRITE_BUDGET_S, expected=_UNREADABLE
            )
        except Refused:
            return

    @spans.a_wait("secrets may_add")
    async def may_add(self, secret: str) -> bool:
        try:
            return await self._call(
                "TestIamPermissions",
                f"{self._secret_url(secret)}:testIamPermissions",
                {"permissions": [_ADD_PERMISSION]},
                read=lambda answer: _ADD_PERMISSION in answer.get("permissions", ()),
                expected=_ABSENT,
            )
        except Refused:
            return False

    async def close(self) -> None:
        """Let go of the connections. A later call opens new ones."""
        await self._api.close()

    async def _call(
        self,
        name: str,
        url: str,
        body: Any = None,
        *,
        read: Callable[[Any], _Read],
        budget_s: float = _READ_BUDGET_S,
        retry_on: frozenset[Status] = _RETRY,
        expected: frozenset[Status] = frozenset(),
    ) -> _Read:
        return await self._api.call(name, url, body, read=read, budget_s=budget_s, retry_on=retry_on, expected=expected)

    def _secret_url(self, secret: str) -> str:
        return f"{self._parent}/secrets/{checked_secret(secret)}"

    def _version_url(self, secret: str, version: int) -> str:
        return f"{self._secret_url(secret)}/versions/{checked_version(version)}"


def _unread(_: Any) -> None:
    """That there was an answer is all."""


def _checked_payload(answer: Any) -> bytes:
    payload = b64decode(answer["payload"].get("data", ""), validate=True)
    if int(answer["payload"]["dataCrc32c"]) != google_crc32c.value(payload):
        _logger.error("a secret payload does not match its checksum")
        raise ValueError
    return payload
