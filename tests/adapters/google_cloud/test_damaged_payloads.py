"""A payload that does not match its checksum is never used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from cab.adapters.google_cloud import secrets
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.ports import Unavailable

RESPONSE = secrets._ACCESS.response


@pytest.fixture
async def answer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """What a Secret Manager answers to every access."""
    answer = RESPONSE(name="projects/1/secrets/s/versions/1")

    async def access(_: Any, __: Any) -> Any:
        return answer

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(access, secrets._AccessRequest.FromString, RESPONSE.SerializeToString)
    name = "google.cloud.secretmanager.v1.SecretManagerService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"AccessSecretVersion": method}),))
    monkeypatch.setenv("SECRET_MANAGER_EMULATOR_HOST", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    yield answer
    await server.stop(0)


@pytest.mark.parametrize(("checksum", "is_used"), [(3_808_858_755, True), (3_808_858_754, False), (None, False)])
async def test_only_a_payload_with_its_checksum_is_used(
    answer: Any, checksum: int | None, is_used: bool, caplog: pytest.LogCaptureFixture
) -> None:
    answer.payload.data = b"123456789"
    if checksum is not None:
        answer.payload.data_crc32c = checksum  # 0xE3069283, the check value of CRC-32C
    vault = SecretManagerVault("demo")
    if is_used:
        assert await vault.access("s", 1) == b"123456789"
    else:
        with pytest.raises(Unavailable):
            await vault.access("s", 1)
        assert "123456789" not in caplog.text
    await vault.close()
