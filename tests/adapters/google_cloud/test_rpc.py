"""Who gets this process's access token: Google over TLS, and nobody else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google.auth.exceptions
import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth.credentials import TokenState
from google.protobuf.wrappers_pb2 import StringValue

from cab.adapters.google_cloud.access_tokens import AccessTokens, NoCredentials
from cab.adapters.google_cloud.rpc import GoogleApi, Method
from cab.ports import Unavailable
from cab_dev.services import google_identity

ACCOUNT = "exchange-token@demo-cab.iam.gserviceaccount.com"
WHO_AM_I = Method("/test.Service/WhoAmI", StringValue)
# Where the metadata server is and which roots gRPC trusts is read once per process.
PROGRAM = """
import asyncio, sys
from google.protobuf.wrappers_pb2 import StringValue
from cab.adapters.google_cloud.rpc import GoogleApi, Method

async def main():
    api = GoogleApi("test", host=sys.argv[1], emulator_variable="NOT_SET")
    answers = [await api.call(Method("/test.Service/WhoAmI", StringValue), StringValue(), budget_s=5) for _ in "ab"]
    await api.close()
    print([answer.value for answer in answers])

asyncio.run(main())
"""


async def who_am_i(_: Any, context: Any) -> StringValue:
    """The authorization that arrived."""
    return StringValue(value=dict(context.invocation_metadata()).get("authorization", "none"))


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[int]:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(who_am_i, StringValue.FromString, StringValue.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"WhoAmI": method}),))
    address = "localhost:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    yield port
    await server.stop(0)


def certificate(folder: Path) -> tuple[grpc.ServerCredentials, Path]:
    """A certificate for localhost, and the file that makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    roots = folder / "roots.pem"
    roots.write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_server_credentials([(private, pem)]), roots


async def test_google_gets_the_access_token_of_the_function_over_tls(tmp_path: Path) -> None:
    credentials, roots = certificate(tmp_path)
    async with (
        google_identity.serving(port=0, issuer="i", accounts={ACCOUNT: 0}) as listening,
        serving(credentials) as port,
    ):
        environment = {name: value for name, value in os.environ.items() if name != "GOOGLE_APPLICATION_CREDENTIALS"}
        environment |= {
            "GCE_METADATA_HOST": listening.metadata[ACCOUNT],
            "GCE_METADATA_IP": listening.metadata[ACCOUNT],
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots),
            "CLOUDSDK_CONFIG": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-c", PROGRAM, f"localhost:{port}"]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False
        )
    bearer = f"Bearer {google_identity.DUMMY_ACCESS_TOKEN}"
    assert done.stdout.strip() == str([bearer, bearer]), done.stderr


async def test_an_emulator_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as port:
        monkeypatch.setenv("TEST_EMULATOR_HOST", f"localhost:{port}")
        tokens = AccessTokens()
        monkeypatch.setattr(tokens, "_metadata", (("authorization", "Bearer secret"),))
        api = GoogleApi("test", host="localhost:1", emulator_variable="TEST_EMULATOR_HOST", tokens=tokens)
        answer = await api.call(WHO_AM_I, StringValue(), budget_s=5)
        await api.close()
    assert answer.value == "none"


class Credentials:
    """Stands for google-auth's: `refresh` gives token 1, 2, ..."""

    def __init__(self) -> None:
        self.token_state = TokenState.INVALID
        self.refreshed = 0
        self.before: Callable[[], None] = lambda: None

    def refresh(self, _: Any) -> None:
        self.before()
        self.refreshed += 1
        self.token_state = TokenState.FRESH

    def apply(self, headers: dict[str, str]) -> None:
        headers["Authorization"] = f"Bearer {self.refreshed}"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> Credentials:
    credentials = Credentials()
    monkeypatch.setattr(google.auth, "default", lambda **_: (credentials, "project"))
    return credentials


async def test_a_token_is_fetched_once_for_all_and_again_when_it_is_no_longer_fresh(credentials: Credentials) -> None:
    tokens = AccessTokens()
    first = await asyncio.gather(*(tokens.metadata() for _ in range(20)))
    assert set(first) == {(("authorization", "Bearer 1"),)}
    credentials.token_state = TokenState.STALE
    assert await tokens.metadata() == (("authorization", "Bearer 2"),)


def fail() -> None:
    raise google.auth.exceptions.RefreshError("canary-3f9a")


async def test_a_failed_refresh_says_nothing_of_why_and_is_tried_again(credentials: Credentials) -> None:
    tokens = AccessTokens()
    credentials.before = fail
    with pytest.raises(NoCredentials) as error:
        await tokens.metadata()
    assert "canary" not in repr(error.value)
    credentials.before = lambda: None
    assert await tokens.metadata() == (("authorization", "Bearer 1"),)


async def test_a_call_without_credentials_is_unavailable(
    credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    credentials.before = fail
    api = GoogleApi("documents", host="localhost:1", emulator_variable="NOT_SET")
    with pytest.raises(Unavailable) as unavailable:
        await api.call(WHO_AM_I, StringValue(), budget_s=1)
    assert unavailable.value.what == "documents"
    assert "canary" not in caplog.text
    await api.close()
