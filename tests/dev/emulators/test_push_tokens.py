"""Pushes with OIDC tokens: the embedded emulator sends them itself, the official one through the push proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import jwt
import pytest
from google.api_core.exceptions import FailedPrecondition
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from tests.dev.emulators.receiver import Receiver

from cab_dev.services import google_identity, push_proxy
from cab_dev.services.google_identity import Listening
from cab_dev.services.push_proxy import Route
from gcp_emulators import Emulators, running

PUSH = "pubsub-push@demo-cab.iam.gserviceaccount.com"
AUDIENCE = "http://ingest-audit.test"
ISSUER = "https://accounts.google.test"


@pytest.fixture
async def identity() -> AsyncIterator[Listening]:
    async with google_identity.serving(port=0, issuer=ISSUER, accounts={PUSH: None}) as listening:
        yield listening


def publish(address: str, endpoint: str, *, email: str = PUSH, audience: str = AUDIENCE) -> None:
    """Create a topic with a push subscription that wants tokens, and publish one message."""
    with grpc.insecure_channel(address) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        topic = publisher.create_topic(name="projects/demo-cab/topics/cab-audit").name
        token: dict[str, Any] = {"service_account_email": email, "audience": audience}
        subscriber.create_subscription(
            name="projects/demo-cab/subscriptions/ingest-audit",
            topic=topic,
            push_config={"push_endpoint": endpoint, "oidc_token": token},
        )
        publisher.publish(topic=topic, messages=[{"data": b"event"}])


def claims_of(receiver: Receiver) -> dict[str, Any]:
    scheme, token = receiver.wait_for(1)[0].headers["authorization"].split()
    assert scheme == "Bearer"
    return jwt.decode(token, options={"verify_signature": False})


async def in_thread(function: Any, *arguments: Any, **options: Any) -> Any:
    """Run blocking work beside this loop, in which the identity service answers."""
    return await asyncio.to_thread(function, *arguments, **options)


async def test_the_embedded_emulator_pushes_with_a_token(identity: Listening, receiver: Receiver) -> None:
    with running(services=["pubsub"], identity_url=identity.url) as emulators:
        await in_thread(publish, emulators.address("pubsub"), receiver.url)
        claims = await in_thread(claims_of, receiver)
    assert (claims["iss"], claims["aud"], claims["email"]) == (ISSUER, AUDIENCE, PUSH)


@pytest.mark.emulators
async def test_the_official_emulator_pushes_with_a_token_through_the_proxy(
    identity: Listening, receiver: Receiver, official: Emulators
) -> None:
    routes = {"/ingest-audit": Route(target=receiver.url, audience=AUDIENCE, email=PUSH)}
    async with push_proxy.serving(port=0, routes=routes, identity_url=identity.url) as proxy_url:
        await in_thread(publish, official.address("pubsub"), proxy_url + "/ingest-audit")
        claims = await in_thread(claims_of, receiver)
    assert (claims["iss"], claims["aud"], claims["email"]) == (ISSUER, AUDIENCE, PUSH)


async def test_the_audience_is_the_endpoint_unless_another_is_given(identity: Listening, receiver: Receiver) -> None:
    with running(services=["pubsub"], identity_url=identity.url) as emulators:
        await in_thread(publish, emulators.address("pubsub"), receiver.url + "/push", audience="")
        claims = await in_thread(claims_of, receiver)
    assert claims["aud"] == receiver.url + "/push"


async def test_nothing_is_pushed_while_there_is_no_token(identity: Listening, receiver: Receiver) -> None:
    with running(services=["pubsub"], identity_url=identity.url) as emulators:
        await in_thread(publish, emulators.address("pubsub"), receiver.url, email="unknown@example.com")
        with grpc.insecure_channel(emulators.address("pubsub")) as channel:
            subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
            name = "projects/demo-cab/subscriptions/ingest-audit"
            token = {"service_account_email": PUSH, "audience": AUDIENCE}
            push_config = {"push_endpoint": receiver.url + "/with-token", "oidc_token": token}
            await in_thread(subscriber.modify_push_config, subscription=name, push_config=push_config)
        pushes = await in_thread(receiver.wait_for, 1)
    assert [push.path for push in pushes] == ["/with-token"]


def test_a_subscription_that_wants_tokens_needs_an_identity_service(
    embedded: Emulators, project: str, receiver: Receiver
) -> None:
    with pytest.raises(FailedPrecondition, match="identity-url"):
        publish_in(embedded, project, receiver)


def publish_in(embedded: Emulators, project: str, receiver: Receiver) -> None:
    with grpc.insecure_channel(embedded.address("pubsub")) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        topic = publisher.create_topic(name=f"projects/{project}/topics/cab-audit").name
        subscriber.create_subscription(
            name=f"projects/{project}/subscriptions/ingest-audit",
            topic=topic,
            push_config={"push_endpoint": receiver.url, "oidc_token": {"service_account_email": PUSH}},
        )
