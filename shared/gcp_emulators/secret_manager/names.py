"""Resource names. Callers may write the project's id or its number; answers carry the number, as in production."""

from __future__ import annotations

import re

import grpc

from gcp_emulators.wire.rpc import RpcError

_PROJECT = re.compile(r"projects/([^/]+)(?=/|$)")
_SECRET_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


def project_of(name: str) -> str:
    """The project id or number of `projects/P...`.

    Raises: RpcError INVALID_ARGUMENT when the name has another form.
    """
    match = _PROJECT.match(name)
    if match is None:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"The resource name [{name}] is not valid.")
    return match[1]


def with_project(name: str, project: str) -> str:
    """The same resource name with this project id or number."""
    return _PROJECT.sub(f"projects/{project}", name, count=1)


def check_secret_id(secret_id: str) -> None:
    """Raises: RpcError INVALID_ARGUMENT."""
    if not _SECRET_ID.fullmatch(secret_id):
        raise RpcError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"The provided Secret ID [{secret_id}] does not match the expected format [[a-zA-Z_0-9]+]",
        )


def split_version(name: str) -> tuple[str, str]:
    """`.../secrets/S/versions/V` as the secret's name and V: a number, an alias or `latest`.

    Raises: RpcError INVALID_ARGUMENT.
    """
    secret, separator, version = name.rpartition("/versions/")
    if not separator or not version or "/secrets/" not in secret:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"The resource name [{name}] is not valid.")
    return secret, version
