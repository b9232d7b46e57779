"""A payload that does not match its checksum is never used."""

from __future__ import annotations

from typing import Any

import pytest
from tests.adapters.google_cloud.http_server import HttpServer, serving

from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.ports import Unavailable


# 0xE3069283 is the check value of CRC-32C.
@pytest.mark.parametrize(("checksum", "is_used"), [(3_808_858_755, True), (3_808_858_754, False), (None, False)])
async def test_only_a_payload_with_its_checksum_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, checksum: int | None, *, is_used: bool
) -> None:
    payload: dict[str, Any] = {"data": "MTIzNDU2Nzg5"}
    if checksum is not None:
        payload["dataCrc32c"] = str(checksum)
    async with serving(HttpServer(body={"name": "projects/1/secrets/s/versions/1", "payload": payload})) as server:
        monkeypatch.setenv("SECRET_MANAGER_EMULATOR_HOST", f"localhost:{server.port}")
        vault = SecretManagerVault("demo")
        if is_used:
            assert await vault.access("s", 1) == b"123456789"
        else:
            with pytest.raises(Unavailable):
                await vault.access("s", 1)
            assert "123456789" not in caplog.text
            assert "MTIzNDU2Nzg5" not in caplog.text
        await vault.close()
