"""What a function pays for before it serves: none of Google's gRPC and message classes, of aiohttp or of PyJWT."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.functions import ROOT
from tests.support.world import World

SERVING = [
    "exchange_token",
    "mint_assertion",
    "call_tool",
    "connect_account",
    "publish_metadata",
    "refresh_grants",
    "ingest_audit",
]
PROGRAM = """
import sys
from functions_framework.aio import create_asgi_app

root, *functions = sys.argv[1:]
for function in functions:
    create_asgi_app(function, f"{root}/functions/{function}/main.py")
    heavy = [
        name
        for name in sys.modules
        if name.split(".")[0] in {"grpc", "proto", "aiohttp", "jwt"}
        or name.startswith(("google.protobuf", "google.api_core", "google.pubsub", "google.cloud.", "google.iam"))
        and not name.startswith("google.cloud.functions")  # of the framework
    ]
    if heavy:
        sys.exit(f"{function} imports {heavy[:3]}")
assert "cab.adapters.google_cloud.rest" in sys.modules
"""

NOSY = """
import os, sys

folder, root = sys.argv[1:]
sys.path.insert(0, folder)
from functions_framework.aio import create_asgi_app

create_asgi_app("exchange_token", f"{root}/functions/exchange_token/main.py")
assert "nosy" not in sys.modules
os.environ["PYDANTIC_DISABLE_PLUGINS"] = ""
from pydantic import BaseModel

class Model(BaseModel):
    pass

assert "nosy" in sys.modules  # it would have been
"""

COLLECTING = """
import gc, sys
import functions_framework.aio

def collections():
    return sum(generation["collections"] for generation in gc.get_stats())

before = collections()
functions_framework.aio.create_asgi_app("exchange_token", f"{sys.argv[1]}/functions/exchange_token/main.py")
assert collections() == before
assert gc.get_freeze_count() > 50_000  # what was built, and never again
before, waste = collections(), [[] for _ in range(30_000)]
assert collections() > before
"""

# A process of exchange_token fetches somebody's keys and asks refresh_grants.
ASKING = """
import asyncio, contextlib, os, sys
from unittest.mock import patch

from cab import settings
from cab_dev.fakes.service_tokens import InMemoryServiceTokens
from cab.bootstrap.shared import Parts
from cab.ports import Unavailable


async def main():
    async def answer(reader, writer):
        asked.append((await reader.readuntil(b"\\r\\n")).decode().strip())
        body = b'{"keys":[]}' if asked[-1].startswith("GET") else b'{"revoked":[]}'
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))

    asked = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    identity = InMemoryServiceTokens("exchange-token@x")
    os.environ["CAB_GOOGLE_JWKS_URI"] = f"{url}/keys"
    with patch("cab.adapters.google_cloud.service_tokens.GoogleServiceTokens", lambda _: identity):
        parts = Parts(settings.load(settings.ExchangeTokenSettings), "exchange_token")
        with contextlib.suppress(Unavailable):  # there is no key in it
            await parts.google_keys().find(parts.settings.google_issuer, "k", "RS256")
        await parts.refresh_grants(url).revoke(grant_id="g", cause="user", txn="t")
    for close in parts.closers:
        await close()
    server.close()
    assert asked == ["GET /keys HTTP/1.1", "POST /grants/revoke HTTP/1.1"], asked


asyncio.run(main())
assert "aiohttp" not in sys.modules
"""


def test_the_functions_that_serve_import_neither_grpc_nor_googles_message_classes_nor_aiohttp_nor_pyjwt(
    tmp_path: Path,
) -> None:
    run(PROGRAM, str(ROOT), *SERVING, scratch=tmp_path)


def test_keys_are_fetched_and_a_token_is_asked_of_refresh_grants_without_aiohttp(tmp_path: Path) -> None:
    run(ASKING, scratch=tmp_path)


def test_no_plugin_of_an_installed_package_sees_what_is_validated(tmp_path: Path) -> None:
    known = tmp_path / "nosy-1.0.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: nosy\nVersion: 1.0\n")
    (known / "entry_points.txt").write_text("[pydantic]\nnosy = nosy:plugin\n")
    (tmp_path / "nosy.py").write_text(
        "class plugin:\n    new_schema_validator = staticmethod(lambda *_: (None, None, None))\n"
    )
    run(NOSY, str(tmp_path), str(ROOT), scratch=tmp_path)


def test_nobody_looks_for_garbage_while_a_function_is_built(tmp_path: Path) -> None:
    run(COLLECTING, str(ROOT), scratch=tmp_path)


def run(program: str, *arguments: str, scratch: Path) -> None:
    world = World(scratch=scratch)
    environment = os.environ | world.environment | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
