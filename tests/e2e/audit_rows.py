"""Reads and feeds the running stack's audit pipeline as an analyst and as Pub/Sub would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.cloud import bigquery
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PubsubMessage
from tests.running_stack import Stack

from cab_dev.local_cloud import AUDIT_TOPIC, bigquery_client

_Seen = TypeVar("_Seen")
TODAY = "occurred_at > timestamp_sub(current_timestamp(), interval 1 day)"


def query(stack: Stack, sql: str, **parameters: str) -> list[dict[str, Any]]:
    """Rows of a query over dataset `cab_audit`, with named string parameters."""
    url = stack.file.emulators.bigquery
    assert url is not None, "the stack runs without BigQuery: these tests need Python 3.13"
    client = bigquery_client(stack.file.project_id, url)
    try:
        given = [bigquery.ScalarQueryParameter(name, "STRING", value) for name, value in parameters.items()]
        job = client.query(sql, job_config=bigquery.QueryJobConfig(query_parameters=given))
        return [dict(row) for row in job.result()]
    finally:
        client.close()


def eventually(look: Callable[[], _Seen | None], *, within_s: float = 30) -> _Seen:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not appear in time"
        time.sleep(0.2)
    return seen


@contextmanager
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(stack.file.emulators.pubsub) as opened:
        yield opened


def publish(stack: Stack, *messages: bytes) -> None:
    with channel(stack) as opened:
        client = PublisherClient(transport=PublisherGrpcTransport(channel=opened))
        topic = f"projects/{stack.file.project_id}/topics/{AUDIT_TOPIC}"
        client.publish(topic=topic, messages=[PubsubMessage(data=data) for data in messages], timeout=10)


def pull(stack: Stack, subscription: str) -> list[bytes]:
    with channel(stack) as opened:
        client = SubscriberClient(transport=SubscriberGrpcTransport(channel=opened))
        name = f"projects/{stack.file.project_id}/subscriptions/{subscription}"
        answer = client.pull(subscription=name, max_messages=100, timeout=15)
        if answer.received_messages:
            client.acknowledge(subscription=name, ack_ids=[item.ack_id for item in answer.received_messages])
        return [item.message.data for item in answer.received_messages]
