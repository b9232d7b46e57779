"""What a function pays for before it serves: Google's gRPC and message classes are not among it."""

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
        if name.split(".")[0] in {"grpc", "proto"}
        or name.startswith(("google.protobuf", "google.api_core", "google.pubsub", "google.cloud.", "google.iam"))
        and not name.startswith("google.cloud.functions")  # of the framework
    ]
    if heavy:
        sys.exit(f"{function} imports {heavy[:3]}")
assert "cab.adapters.google_cloud.rest" in sys.modules
"""


def test_the_functions_that_serve_import_neither_grpc_nor_googles_message_classes(tmp_path: Path) -> None:
    world = World(scratch=tmp_path)
    environment = os.environ | world.environment | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT), *SERVING],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
