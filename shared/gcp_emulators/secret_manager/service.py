"""The methods of `google.cloud.secretmanager.v1.SecretManagerService`."""

from __future__ import annotations

import dataclasses
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import google_crc32c
import grpc
from google.cloud.secretmanager_v1.types import (
    AccessSecretVersionRequest,
    AccessSecretVersionResponse,
    AddSecretVersionRequest,
    CreateSecretRequest,
    DeleteSecretRequest,
    DestroySecretVersionRequest,
    DisableSecretVersionRequest,
    EnableSecretVersionRequest,
    GetSecretRequest,
    GetSecretVersionRequest,
    ListSecretsRequest,
    ListSecretsResponse,
    ListSecretVersionsRequest,
    ListSecretVersionsResponse,
    Secret,
    SecretPayload,
    SecretVersion,
    UpdateSecretRequest,
)
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import empty_pb2  # type: ignore[import-untyped,unused-ignore]

from gcp_emulators.permissions.projects import project_number
from gcp_emulators.permissions.table import CALLER
from gcp_emulators.secret_manager.filters import parse_filter
from gcp_emulators.secret_manager.names import check_secret_id, project_of, split_version, with_project
from gcp_emulators.secret_manager.staleness import Past
from gcp_emulators.secret_manager.store import SecretStore, StoredVersion
from gcp_emulators.storage import atomically
from gcp_emulators.wire.rpc import Codec, Method, RpcError, proto_plus, protobuf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from gcp_emulators.faults import FaultBook

    Item = TypeVar("Item")

FULL_NAME = "google.cloud.secretmanager.v1.SecretManagerService"
MAX_PAYLOAD_BYTES = 64 * 1024
_MAX_PAGE = 25_000
_IMMUTABLE_FIELDS = {"name", "create_time", "etag", "replication"}

State = SecretVersion.State

_PERMISSION_METHODS = {
    "secretmanager.secrets.create": "CreateSecret",
    "secretmanager.secrets.delete": "DeleteSecret",
    "secretmanager.secrets.get": "GetSecret",
    "secretmanager.secrets.list": "ListSecrets",
    "secretmanager.secrets.update": "UpdateSecret",
    "secretmanager.secrets.getIamPolicy": "GetIamPolicy",
    "secretmanager.secrets.setIamPolicy": "SetIamPolicy",
    "secretmanager.versions.access": "AccessSecretVersion",
    "secretmanager.versions.add": "AddSecretVersion",
    "secretmanager.versions.destroy": "DestroySecretVersion",
    "secretmanager.versions.disable": "DisableSecretVersion",
    "secretmanager.versions.enable": "EnableSecretVersion",
    "secretmanager.versions.get": "GetSecretVersion",
    "secretmanager.versions.list": "ListSecretVersions",
}


class SecretManagerService:
    """Secret Manager, all fifteen methods, global and regional names.

    Strongly consistent unless a `StaleFault` is in force. `latest` is the newest version whatever its state.
    Does not do: IAM (policies are kept, never enforced; `TestIamPermissions` grants all that no PERMISSION_DENIED fault
    refuses), CMEK, rotation events, expiry of secrets, delayed destruction, quotas.
    """

    def __init__(self, data_dir: str, faults: FaultBook) -> None:
        self._store = SecretStore(data_dir)
        self._faults = faults
        self._past = Past(faults)

    def methods(self) -> dict[str, list[Method]]:
        return {FULL_NAME: self._methods()}

    def delete_project(self, project: str) -> None:
        """Remove all secrets of a project."""
        self._store.delete_project(project)

    def close(self) -> None:
        self._store.connection.close()

    def _methods(self) -> list[Method]:
        empty = protobuf(empty_pb2.Empty)
        secret, version = proto_plus(Secret), proto_plus(SecretVersion)
        policy = protobuf(policy_pb2.Policy)

        def method(request: Codec, response: Codec, call: Callable[..., Any]) -> Method:
            name = "".join(word.capitalize() for word in call.__name__.split("_"))
            return Method(name, request, response, call, self._resources)

        return [
            method(proto_plus(CreateSecretRequest), secret, self.create_secret),
            method(proto_plus(GetSecretRequest), secret, self.get_secret),
            method(proto_plus(UpdateSecretRequest), secret, self.update_secret),
            method(proto_plus(DeleteSecretRequest), empty, self.delete_secret),
            method(proto_plus(ListSecretsRequest), proto_plus(ListSecretsResponse), self.list_secrets),
            method(proto_plus(AddSecretVersionRequest), version, self.add_secret_version),
            method(proto_plus(GetSecretVersionRequest), version, self.get_secret_version),
            method(
                proto_plus(ListSecretVersionsRequest),
                proto_plus(ListSecretVersionsResponse),
                self.list_secret_versions,
            ),
            method(
                proto_plus(AccessSecretVersionRequest),
                proto_plus(AccessSecretVersionResponse),
                self.access_secret_version,
            ),
            method(proto_plus(EnableSecretVersionRequest), version, self.enable_secret_version),
            method(proto_plus(DisableSecretVersionRequest), version, self.disable_secret_version),
            method(proto_plus(DestroySecretVersionRequest), version, self.destroy_secret_version),
            method(protobuf(iam_policy_pb2.SetIamPolicyRequest), policy, self.set_iam_policy),
            method(protobuf(iam_policy_pb2.GetIamPolicyRequest), policy, self.get_iam_policy),
            method(
                protobuf(iam_policy_pb2.TestIamPermissionsRequest),
                protobuf(iam_policy_pb2.TestIamPermissionsResponse),
                self.test_iam_permissions,
            ),
        ]

    def create_secret(self, request: CreateSecretRequest) -> Secret:
        """Raises: RpcError ALREADY_EXISTS, INVALID_ARGUMENT."""
        parent = self._canonical(request.parent)
        check_secret_id(request.secret_id)
        if "/locations/" not in parent and "replication" not in request.secret:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "secret.replication must be provided.")
        secret = Secret(request.secret)
        secret.name = f"{parent}/secrets/{request.secret_id}"
        secret.create_time = datetime.now(UTC)
        secret.etag = _new_etag()
        if self._store.secret(secret.name) is not None:
            raise RpcError(grpc.StatusCode.ALREADY_EXISTS, f"Secret [{_public(secret.name)}] already exists.")
        self._store.add_secret(secret)
        return _public_secret(secret)

    def get_secret(self, request: GetSecretRequest) -> Secret:
        return _public_secret(self._secret(self._canonical(request.name)))

    def update_secret(self, request: UpdateSecretRequest) -> Secret:
        """Raises: RpcError INVALID_ARGUMENT for a field that cannot change, FAILED_PRECONDITION for a stale etag."""
        secret = self._secret(self._canonical(request.secret.name))
        _check_etag(request.secret.etag, secret.etag)
        paths = list(request.update_mask.paths)
        changeable = set(Secret.meta.fields) - _IMMUTABLE_FIELDS
        if not paths or not changeable.issuperset(paths):
            raise RpcError(
                grpc.StatusCode.INVALID_ARGUMENT, "The update_mask must name fields of the secret that can change."
            )
        for path in paths:
            setattr(secret, path, getattr(request.secret, path))
        self._check_aliases(secret)
        secret.etag = _new_etag()
        self._store.update_secret(secret)
        return _public_secret(secret)

    def delete_secret(self, request: DeleteSecretRequest) -> Any:
        secret = self._secret(self._canonical(request.name))
        _check_etag(request.etag, secret.etag)
        with atomically(self._store.connection):
            self._store.delete_secret(secret.name)
        return empty_pb2.Empty()

    def list_secrets(self, request: ListSecretsRequest) -> ListSecretsResponse:
        """Newest first."""
        matches = parse_filter(request.filter)
        found = [
            _public_secret(secret)
            for created_at, secret in self._store.secrets(self._canonical(request.parent))
            if self._past.is_listed(secret.name, created_at) and matches(_filter_fields(secret))
        ]
        page, next_page_token = _page(found, request.page_size, request.page_token)
        return ListSecretsResponse(secrets=page, next_page_token=next_page_token, total_size=len(found))

    def add_secret_version(self, request: AddSecretVersionRequest) -> SecretVersion:
        """Give the payload the next number.

        Raises: RpcError NOT_FOUND, INVALID_ARGUMENT for more than 64 KiB or a checksum that does not match.
        """
        secret = self._secret(self._canonical(request.parent))
        payload = request.payload.data
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RpcError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The payload exceeds the maximum size of {MAX_PAYLOAD_BYTES} bytes.",
            )
        has_checksum = "data_crc32c" in request.payload
        if has_checksum and request.payload.data_crc32c != google_crc32c.value(payload):
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "The provided checksum does not match the payload.")
        number = self._store.latest_number(secret.name) + 1
        body = SecretVersion(
            name=f"{secret.name}/versions/{number}",
            create_time=datetime.now(UTC),
            state=State.ENABLED,
            etag=_new_etag(),
            client_specified_payload_checksum=has_checksum,
        )
        with atomically(self._store.connection):
            self._store.put_version(StoredVersion(secret.name, number, time.time(), body, payload))
        return _public_version(body)

    def get_secret_version(self, request: GetSecretVersionRequest) -> SecretVersion:
        return _public_version(self._past.as_read(self._version(request.name)).body)

    def list_secret_versions(self, request: ListSecretVersionsRequest) -> ListSecretVersionsResponse:
        """Newest first."""
        secret = self._secret(self._canonical(request.parent))
        matches = parse_filter(request.filter)
        found = [
            _public_version(version.body)
            for version in self._past.as_listed(self._store.versions(secret.name))
            if matches({"name": version.body.name, "state": version.body.state.name})
        ]
        page, next_page_token = _page(found, request.page_size, request.page_token)
        return ListSecretVersionsResponse(versions=page, next_page_token=next_page_token, total_size=len(found))

    def access_secret_version(self, request: AccessSecretVersionRequest) -> AccessSecretVersionResponse:
        """Raises: RpcError NOT_FOUND, FAILED_PRECONDITION unless the version is enabled."""
        version = self._past.as_read(self._version(request.name))
        name = _public(version.body.name)
        if version.body.state != State.ENABLED:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Secret Version [{name}] is in {version.body.state.name} state.",
            )
        payload = SecretPayload(data=version.payload, data_crc32c=google_crc32c.value(version.payload))
        return AccessSecretVersionResponse(name=name, payload=payload)

    def enable_secret_version(self, request: EnableSecretVersionRequest) -> SecretVersion:
        return self._change_state(request.name, request.etag, State.ENABLED)

    def disable_secret_version(self, request: DisableSecretVersionRequest) -> SecretVersion:
        return self._change_state(request.name, request.etag, State.DISABLED)

    def destroy_secret_version(self, request: DestroySecretVersionRequest) -> SecretVersion:
        """Erases the payload at once."""
        return self._change_state(request.name, request.etag, State.DESTROYED)

    def set_iam_policy(self, request: Any) -> Any:
        secret = self._secret(self._canonical(request.resource))
        policy = policy_pb2.Policy()
        policy.CopyFrom(request.policy)
        policy.etag = uuid.uuid4().bytes[:8]
        self._store.set_policy(secret.name, policy.SerializeToString())
        return policy

    def get_iam_policy(self, request: Any) -> Any:
        secret = self._secret(self._canonical(request.resource))
        return policy_pb2.Policy.FromString(self._store.policy(secret.name))

    def test_iam_permissions(self, request: Any) -> Any:
        """Every permission asked for that the caller has, but for those whose method a PERMISSION_DENIED fault refuses."""
        resource = self._canonical(request.resource)
        granted = [
            permission
            for permission in request.permissions
            if _has(permission, resource)
            and not self._faults.denies("secret_manager", _PERMISSION_METHODS.get(permission, ""), resource)
        ]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=granted)

    def _change_state(self, name: str, etag: str, state: int) -> SecretVersion:
        version = self._version(name)
        body = version.body
        _check_etag(etag, body.etag)
        if body.state == State.DESTROYED:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Secret Version [{_public(body.name)}] is in DESTROYED state.",
            )
        if state != State.ENABLED:
            before = dataclasses.replace(version, body=SecretVersion(body))
            self._past.note("destroy" if state == State.DESTROYED else "disable", before)
        body.state, body.etag = State(state), _new_etag()
        payload = version.payload
        if state == State.DESTROYED:
            body.destroy_time, payload = datetime.now(UTC), b""
        with atomically(self._store.connection):
            self._store.put_version(dataclasses.replace(version, body=body, payload=payload))
        return _public_version(body)

    def _secret(self, name: str) -> Secret:
        secret = self._store.secret(name)
        if secret is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, f"Secret [{_public(name)}] not found.")
        return secret

    def _version(self, name: str) -> StoredVersion:
        secret_name, wanted = split_version(self._canonical(name))
        secret = self._secret(secret_name)
        if wanted == "latest":
            version = self._past.latest(self._store.versions(secret_name))
        else:
            number = secret.version_aliases.get(wanted, wanted)
            is_number = isinstance(number, int) or (number.isascii() and number.isdigit())
            version = self._store.version(secret_name, int(number)) if is_number else None
        if version is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, f"Secret Version [{_public(name)}] not found.")
        return version

    def _check_aliases(self, secret: Secret) -> None:
        for number in secret.version_aliases.values():
            if self._store.version(secret.name, number) is None:
                raise RpcError(
                    grpc.StatusCode.INVALID_ARGUMENT, f"An alias names version {number}, which does not exist."
                )

    def _canonical(self, name: str) -> str:
        return with_project(name, self._store.project_id(project_of(name)))

    def _resources(self, request: Any) -> Sequence[str]:
        """The resource that a request names, with the project id, for faults and the call log."""
        if isinstance(request, CreateSecretRequest):
            names = [f"{request.parent}/secrets/{request.secret_id}"]
        elif isinstance(request, UpdateSecretRequest):
            names = [request.secret.name]
        else:
            names = [getattr(request, field, "") for field in ("name", "parent", "resource")]
        return [self._canonical(name) for name in names if name.startswith("projects/")]


def _has(permission: str, resource: str) -> bool:
    caller = CALLER.get()
    if caller is None:
        return True
    table, identity = caller
    return table.permits(identity, permission, resource, _public(resource))


def _new_etag() -> str:
    return f'"{uuid.uuid4().hex[:14]}"'


def _check_etag(given: str, current: str) -> None:
    if given and given != current:
        raise RpcError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"The provided etag {given} does not match the current etag {current}.",
        )


def _public(name: str) -> str:
    project = project_of(name)
    return name if project.isdigit() else with_project(name, project_number(project))


def _public_secret(secret: Secret) -> Secret:
    result = Secret(secret)
    result.name = _public(secret.name)
    return result


def _public_version(version: SecretVersion) -> SecretVersion:
    result = SecretVersion(version)
    result.name = _public(version.name)
    return result


def _filter_fields(secret: Secret) -> dict[str, str]:
    return {"name": secret.name} | {f"labels.{key}": value for key, value in secret.labels.items()}


def _page(items: Sequence[Item], size: int, token: str) -> tuple[Sequence[Item], str]:
    start = int(token) if token.isascii() and token.isdigit() else 0
    end = start + (min(size, _MAX_PAGE) if size > 0 else _MAX_PAGE)
    return items[start:end], str(end) if end < len(items) else ""
