"""Fills the emulators with what Terraform creates in a real project: topics, subscriptions, secrets, signing keys.

Everything is idempotent: each function may run again after an emulator was restarted and has lost its memory.
The clients find the emulators by the usual environment variables of this process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

AUDIT_TOPIC = "cab-audit"
DEAD_LETTER_TOPIC = "cab-audit-dead-letter"
QUARANTINE_TOPIC = "cab-audit-quarantine"
GRANTS_DUE_TOPIC = "cab-grants-due"
AUDIT_SUBSCRIPTION = "cab-audit-ingest"
_MAX_DELIVERY_ATTEMPTS = 5
_TIMEOUT_S = 20.0  # the first call to the official emulator waits for Java to warm up


@dataclass(frozen=True, kw_only=True)
class PushTarget:
    """`endpoint` gets the messages, with an ID token of `account` for `audience`."""

    endpoint: str
    audience: str
    account: str


def create_topics(project: str, *, audit: PushTarget, grants_due: PushTarget) -> str:
    """Topics and subscriptions. Blocking: run it in a thread. Returns a few words for people."""
    import grpc
    from google.api_core.exceptions import AlreadyExists
    from google.pubsub_v1 import PublisherClient, SubscriberClient
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    topics = (AUDIT_TOPIC, DEAD_LETTER_TOPIC, QUARANTINE_TOPIC, GRANTS_DUE_TOPIC)
    subscriptions: list[dict[str, Any]] = [
        {
            "name": AUDIT_SUBSCRIPTION,
            "topic": AUDIT_TOPIC,
            "push": audit,
            "dead_letter_policy": {
                "dead_letter_topic": f"projects/{project}/topics/{DEAD_LETTER_TOPIC}",
                "max_delivery_attempts": _MAX_DELIVERY_ATTEMPTS,
            },
            "retry_policy": {"minimum_backoff": {"seconds": 1}, "maximum_backoff": {"seconds": 10}},
        },
        {
            "name": "cab-grants-due-refresh",
            "topic": GRANTS_DUE_TOPIC,
            "push": grants_due,
            "retry_policy": {"minimum_backoff": {"seconds": 1}, "maximum_backoff": {"seconds": 10}},
        },
        {"name": "cab-audit-dead-letter-keep", "topic": DEAD_LETTER_TOPIC},
        {"name": "cab-audit-quarantine-keep", "topic": QUARANTINE_TOPIC},
    ]
    with grpc.insecure_channel(os.environ["PUBSUB_EMULATOR_HOST"]) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        for topic in topics:
            try:
                publisher.create_topic(name=f"projects/{project}/topics/{topic}", retry=None, timeout=_TIMEOUT_S)
            except AlreadyExists:
                continue
        for subscription in subscriptions:
            request = {
                **subscription,
                "name": f"projects/{project}/subscriptions/{subscription['name']}",
                "topic": f"projects/{project}/topics/{subscription['topic']}",
                "ack_deadline_seconds": 30,
                "expiration_policy": {},  # never
            }
            push: PushTarget | None = request.pop("push", None)
            if push is not None:
                request["push_config"] = {
                    "push_endpoint": push.endpoint,
                    "oidc_token": {"service_account_email": push.account, "audience": push.audience},
                }
            try:
                subscriber.create_subscription(request=request, retry=None, timeout=_TIMEOUT_S)
            except AlreadyExists:
                continue
    return f"{len(topics)} topics, {len(subscriptions)} subscriptions"


async def store_secrets(project: str, secrets: Mapping[str, str]) -> str:
    """Each secret as version 1 of its name; one that has that version is left alone."""
    from cab.adapters.google_cloud.secrets import SecretManagerVault
    from cab.ports import NotFound

    vault = SecretManagerVault(project)
    try:
        for name, value in secrets.items():
            await vault.create(name)
            try:
                await vault.access(name, 1)
            except NotFound:
                await vault.add(name, value.encode())
    finally:
        await vault.close()
    return f"{len(secrets)} secrets"


async def permit_readers(project: str, names: Iterable[str]) -> str:
    """Who may read which secret, as Terraform says it. Returns a few words for people."""
    from cab.adapters.google_cloud.rest import GoogleApi
    from cab_ops.doctor import expected

    api = GoogleApi("secrets", host="", emulator_variable="SECRET_MANAGER_EMULATOR_HOST")
    permitted = 0
    try:
        for name in sorted({*names, *expected.own_secrets()}):
            members = [expected.member(function, project) for function in expected.readers_of(name) or ()]
            policy = {"bindings": [{"role": expected.READ_ROLE, "members": members}]}
            url = f"/v1/projects/{project}/secrets/{name}:setIamPolicy"
            await api.call("SetIamPolicy", url, {"policy": policy}, read=dict, budget_s=_TIMEOUT_S)
            permitted += len(members)
    finally:
        await api.close()
    return f"{permitted} permissions on secrets"


async def create_signing_keys(project: str) -> str:
    """What `cab keys init` makes. Returns a few words for people."""
    from cab.ports import Unavailable
    from cab_ops.cli.cloud import open_cloud
    from cab_ops.cli.keys import make_keys

    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            async with open_cloud(project) as cloud:
                return f"{len(await make_keys(cloud))} keys"
        except Unavailable:  # the adapters wait less long than Java needs to warm up
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


def bigquery_client(project: str, url: str) -> Any:
    """A `google.cloud.bigquery.Client` of the emulator at `url`; close it after use."""
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    options = ClientOptions(api_endpoint=url)
    return bigquery.Client(project=project, credentials=AnonymousCredentials(), client_options=options)


def create_audit_tables(project: str, dataset: str, url: str) -> None:
    """The audit dataset with its table and views. Blocking: run it in a thread."""
    from cab.adapters.google_cloud.bigquery.audit_schema import create_dataset

    client = bigquery_client(project, url)
    try:
        create_dataset(client, dataset)
    finally:
        client.close()
