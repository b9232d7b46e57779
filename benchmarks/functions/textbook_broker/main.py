"""The same exchange from documentation: stock clients called as their guides show, nothing tuned, nothing left out.

It makes the same checks that matter for cost (two signatures, intent, policy, rate limit, grant status, single use) and
keeps the same records; what runs side by side in the broker runs side by side here. It is kept as a measure, not as a
model: it lacks most of the broker's refusals.
"""

import asyncio
import hashlib
import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import cedarpy
import functions_framework.aio
import jwt
from google.cloud import firestore, pubsub_v1  # type: ignore[attr-defined]
from pydantic import BaseModel, ConfigDict, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse

PROJECT = os.environ["GOOGLE_CLOUD_PROJECT"]
ORIGIN = os.environ["CAB_ORIGIN"]
TOPIC = f"projects/{PROJECT}/topics/cab-audit"
ACCESS_TOKEN = os.environ["BENCH_ACCESS_TOKEN"]  # as if it were remembered from an earlier refresh
GRANT_ID = os.environ["BENCH_GRANT_ID"]
LIMIT = 1_000_000

client_keys = jwt.PyJWKClient(f"{os.environ['ACME_IDP_ORIGIN']}/clients/jwks.json")
edge_keys = jwt.PyJWKClient(os.environ["BENCH_EDGE_JWKS_URI"])
policies = "\n".join(path.read_text("utf-8") for path in sorted(Path(os.environ["CAB_CONFIG_DIR"]).glob("policies/*")))
_databases: dict[str, firestore.AsyncClient] = {}
_publishers: list[pubsub_v1.PublisherClient] = []


class Intent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["cab_action"]
    actions: list[str]
    locations: list[str]
    identifier: str
    parameters: dict[str, str | int | bool] = {}
    task_id: str | None = None
    reason: str | None = None


intents = TypeAdapter(list[Intent])


def database(name: str) -> firestore.AsyncClient:
    """Made on first use, in the process that serves."""
    if name not in _databases:
        _databases[name] = firestore.AsyncClient(project=PROJECT, database=name)
    return _databases[name]


def publisher() -> pubsub_v1.PublisherClient:
    if not _publishers:
        _publishers.append(pubsub_v1.PublisherClient())
    return _publishers[0]


@functions_framework.aio.http
async def textbook_broker(request: Request) -> JSONResponse:
    if request.url.path == "/health":
        return JSONResponse({"status": "ok"})
    form = await request.form()
    agent = verified(str(form["client_assertion"]), client_keys)
    subject = verified(str(form["subject_token"]), edge_keys)
    (intent,) = intents.validate_json(str(form["authorization_details"]))
    if subject["may_act"]["sub"] != agent["sub"] or not permitted(agent, subject, intent):
        return JSONResponse({"error": "access_denied"}, 400)

    now = datetime.now(UTC)
    guards, grants = database("guards"), database("grants")
    spent = guards.collection("single_use").document(agent["jti"])
    counter = guards.collection("rate_limits").document(f"{subject['sub']}:{agent['sub']}:{now:%Y%m%d%H}")
    _, used, grant = await asyncio.gather(
        spent.create({"expires_at": now + timedelta(minutes=6)}),
        counted(counter),
        grants.collection("grants").document(GRANT_ID).get(),
    )
    if used > LIMIT or grant.get("status") != "active":
        return JSONResponse({"error": "access_denied"}, 400)

    issued = guards.collection("issued_tokens").document(uuid.uuid4().hex)
    record = {
        "sha256": hashlib.sha256(ACCESS_TOKEN.encode()).hexdigest(),
        "subject": subject["sub"],
        "client_id": agent["sub"],
        "details": intent.model_dump(),
        "txn": subject["txn"],
        "issued_at": now,
        "expires_at": now + timedelta(hours=24),
    }
    event = {
        "event_id": str(uuid.uuid4()),
        "occurred_at": now.isoformat(),
        "subject": subject["sub"],
        "agent": agent["sub"],
        "intent": intent.model_dump(),
        "decision": "permit",
        "txn": subject["txn"],
        "token_sha256": record["sha256"],
    }
    published = publisher().publish(TOPIC, json.dumps(event).encode())
    await asyncio.gather(issued.create(record), asyncio.wrap_future(published))
    return JSONResponse(
        {
            "access_token": ACCESS_TOKEN,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 3000,
            "scope": "opportunity.read",
            "authorization_details": [intent.model_dump(exclude_none=True)],
            "txn": subject["txn"],
        },
        headers={"Cache-Control": "no-store"},
    )


def verified(token: str, keys: jwt.PyJWKClient) -> dict[str, Any]:
    key = keys.get_signing_key_from_jwt(token)
    return jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        audience=f"{ORIGIN}/oauth2",
        options={"require": ["exp", "iat", "iss", "aud", "jti"]},
    )


async def counted(counter: firestore.AsyncDocumentReference) -> int:
    await counter.set({"n": firestore.Increment(1)}, merge=True)
    snapshot = await counter.get()
    return int(snapshot.get("n"))


def permitted(agent: dict[str, Any], subject: dict[str, Any], intent: Intent) -> bool:
    resource = f"crm/{intent.identifier}"
    answer = cedarpy.is_authorized(
        {
            "principal": f'CAB::User::"{subject["sub"]}"',
            "action": f'CAB::Action::"{intent.actions[0]}"',
            "resource": f'CAB::Resource::"{resource}"',
            "context": {
                "agent": {"id": agent["sub"], "trust_zone": "internal", "mode": "token"},
                "chain": [],
                "parameters": intent.parameters,
                "task": {"present": False, "comparison": "no_task"},
                "trigger": "unknown",
                "auth": {"amr": []},
            },
        },
        policies,
        [
            entity("User", subject["sub"], [("Group", group) for group in subject["groups"]]),
            entity("Resource", resource, [("Connection", "crm")]),
            entity("Action", intent.actions[0], [("Action", "read")]),
        ],
    )
    return answer.allowed


def entity(kind: str, name: str, parents: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "uid": {"type": f"CAB::{kind}", "id": name},
        "attrs": {},
        "parents": [{"type": f"CAB::{parent}", "id": parent_name} for parent, parent_name in parents],
    }
