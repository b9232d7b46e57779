"""Writes down what a release leaves in the stores, and what it publishes. Run with the code of that release, in a checkout of its tag:

    PYTHONPATH=shared:. python .../tests/data/last_release/record.py > .../tests/data/last_release/v0.1.0.json

`tests/functions/test_last_release.py` gives it to this code.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.world import DROP, WRITE, World, intent, task

from cab.encoding.records import as_json

IN_CRM = intent("crm.deal.list", "deal/*")


def plain(value: Any) -> Any:
    """JSON of what a document holds: instants and bytes are named as such."""
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


async def record(scratch: Path) -> dict[str, Any]:
    world = World(scratch=scratch)
    grant = await world.connect("alice", "crm", "deal.read")
    assertion = await world.assertion(user="alice", task=task("*", limits={"max_uses": 9}))
    answers = [
        await world.exchange(IN_CRM, subject_token=assertion),
        await world.exchange(WRITE, subject_token=assertion),
        await world.exchange(intent("crm.deal.unknown", "deal/*"), subject_token=assertion),
    ]
    form = await world.exchange_form(WRITE, subject_token=assertion)
    answers.append(await world.post("/oauth2/token", form))
    spent = await world.exchange(DROP, subject_token=assertion, completion_mode="deferred")
    await world.decide(spent.json["interaction_uri"], approved=True)
    answers.append(await world.poll(spent.json["deferral_code"]))
    again = await world.exchange(DROP, subject_token=assertion, completion_mode="deferred")
    await world.decide(again.json["interaction_uri"], approved=True)
    return {
        "now": world.now,
        "grant_id": grant,
        "assertion": assertion,
        "answers": [answer.status for answer in answers],
        "refresh_tokens_sent": [form["refresh_token"] for form in world.crm.refreshes],
        "spent_jti": json.loads(base64.urlsafe_b64decode(form["client_assertion"].split(".")[1] + "=="))["jti"],
        "spent_deferral_code": spent.json["deferral_code"],
        "deferral_code": again.json["deferral_code"],
        "documents": {
            database: {path: plain(document.fields) for path, document in documents._documents.items()}
            for database, documents in world.cloud.documents.items()
        },
        "secrets": {
            name: [plain(payload) for payload in versions] for name, versions in world.cloud.vault._secrets.items()
        },
        "events": {
            function: [as_json(event) for event in log.events] for function, log in world.cloud.audit_logs.items()
        },
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        recorded = asyncio.run(record(Path(scratch)))
    sys.stdout.write(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
