"""Message classes come without the clients, and get along with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

ADAPTERS = (
    "from cab.adapters.google_cloud import secrets\n"
    "from cab.adapters.google_cloud.firestore import documents\n"
    "from cab.adapters.google_cloud.pubsub import audit_log\n"
    "import sys\n"
    "clients = [name for name in sys.modules if name.startswith('google.') and name.endswith('.client')]\n"
    "assert not clients, clients\n"
)
CLIENTS = (
    "from google.cloud import firestore, secretmanager\n"
    "from google.cloud.firestore_v1.types import document, firestore as requests\n"
    "from google.pubsub_v1 import PublisherAsyncClient\n"
    "from google.pubsub_v1.types import PublishRequest\n"
    "assert firestore.AsyncClient and secretmanager.SecretManagerServiceAsyncClient and PublisherAsyncClient\n"
)
SAME = (
    "from cab.adapters.google_cloud.firestore import documents\n"
    "from cab.adapters.google_cloud.pubsub import publisher\n"
    "assert document.Document.pb() is documents._Document\n"
    "assert requests.CommitRequest.pb() is documents._CommitRequest\n"
    "assert PublishRequest.pb() is publisher._PublishRequest\n"
)


@pytest.mark.parametrize(
    "program", [ADAPTERS, ADAPTERS + CLIENTS + SAME, CLIENTS + SAME], ids=["alone", "before the clients", "after them"]
)
def test_the_adapters_import_no_client_and_share_the_classes_of_one(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=path())
    assert done.returncode == 0, done.stderr


def path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
