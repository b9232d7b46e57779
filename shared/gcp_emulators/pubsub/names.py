"""Resource names of topics and subscriptions."""

from __future__ import annotations

import re

import grpc

from gcp_emulators.wire.rpc import RpcError

_ID = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}")


def check_name(name: str, collection: str) -> None:
    """Refuse what is not `projects/P/COLLECTION/ID`.

    Raises: RpcError INVALID_ARGUMENT.
    """
    parts = name.split("/")
    is_valid = (
        len(parts) == 4
        and parts[0::2] == ["projects", collection]
        and bool(parts[1])
        and _ID.fullmatch(parts[3]) is not None
    )
    if not is_valid:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid [{collection}] name: (name={name})")
