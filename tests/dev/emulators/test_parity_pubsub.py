"""What the broker relies on in Pub/Sub, on the embedded and on the official emulator alike."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import AlreadyExists, InvalidArgument, NotFound
from google.cloud import pubsub_v1  # type: ignore[attr-defined]
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1 import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from tests.dev.emulators.receiver import Receiver

from gcp_emulators import Emulators

SOURCE = "CloudPubSubDeadLetterSource"


@dataclass
class PubSub:
    """Both clients of one project, with short names for its resources."""

    project: str
    publisher: pubsub_v1.PublisherClient
    subscriber: pubsub_v1.SubscriberClient

    def topic(self, name: str = "cab-audit") -> str:
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str = "ingest-audit") -> str:
        return f"projects/{self.project}/subscriptions/{name}"

    def create_topic(self, name: str = "cab-audit") -> str:
        return str(self.publisher.create_topic(name=self.topic(name)).name)

    def create_subscription(self, name: str = "ingest-audit", topic: str = "cab-audit", **options: Any) -> str:
        request = {"name": self.subscription(name), "topic": self.topic(topic), **options}
        return str(self.subscriber.create_subscription(request=request).name)

    def publish(self, data: bytes, topic: str = "cab-audit", **options: Any) -> str:
        return str(self.publisher.publish(self.topic(topic), data, **options).result(timeout=10))

    def pull(self, name: str = "ingest-audit", *, timeout_s: float = 10.0) -> list[Any]:
        answer = self.subscriber.pull(subscription=self.subscription(name), max_messages=10, timeout=timeout_s)
        return list(answer.received_messages)

    def acknowledge(self, messages: list[Any], name: str = "ingest-audit") -> None:
        ack_ids = [message.ack_id for message in messages]
        self.subscriber.acknowledge(subscription=self.subscription(name), ack_ids=ack_ids)

    def refuse(self, messages: list[Any], name: str = "ingest-audit") -> None:
        ack_ids = [message.ack_id for message in messages]
        self.subscriber.modify_ack_deadline(
            subscription=self.subscription(name), ack_ids=ack_ids, ack_deadline_seconds=0
        )


@pytest.fixture
def pubsub(emulators: Emulators, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSub]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulators.address("pubsub"))
    publisher = pubsub_v1.PublisherClient(
        batch_settings=pubsub_v1.types.BatchSettings(max_messages=1),
        publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True),
    )
    subscriber = pubsub_v1.SubscriberClient()
    with subscriber:
        yield PubSub(project, publisher, subscriber)
    publisher.stop()
    publisher.transport.close()


# Topics and subscriptions


def test_topics_are_created_once_found_listed_and_deleted(pubsub: PubSub) -> None:
    pubsub.create_topic()
    pubsub.create_topic("cab-other")
    with pytest.raises(AlreadyExists):
        pubsub.create_topic()
    assert pubsub.publisher.get_topic(topic=pubsub.topic()).name == pubsub.topic()
    listed = [topic.name for topic in pubsub.publisher.list_topics(project=f"projects/{pubsub.project}")]
    assert listed == [pubsub.topic(), pubsub.topic("cab-other")]
    pubsub.publisher.delete_topic(topic=pubsub.topic())
    with pytest.raises(NotFound):
        pubsub.publisher.get_topic(topic=pubsub.topic())


def test_a_subscription_keeps_its_settings_and_gets_defaults(pubsub: PubSub, receiver: Receiver) -> None:
    pubsub.create_topic()
    pubsub.create_topic("cab-dead")
    pubsub.create_subscription(
        push_config={"push_endpoint": receiver.url},
        dead_letter_policy={"dead_letter_topic": pubsub.topic("cab-dead"), "max_delivery_attempts": 7},
        retry_policy={"minimum_backoff": Duration(seconds=1), "maximum_backoff": Duration(seconds=60)},
        labels={"part": "audit"},
    )
    found = pubsub.subscriber.get_subscription(subscription=pubsub.subscription())
    assert found.topic == pubsub.topic()
    assert found.push_config.push_endpoint == receiver.url
    assert found.dead_letter_policy.max_delivery_attempts == 7
    assert found.retry_policy.maximum_backoff == timedelta(seconds=60)
    assert found.ack_deadline_seconds == 10
    assert found.message_retention_duration == timedelta(days=7)
    assert dict(found.labels) == {"part": "audit"}


def test_subscriptions_are_listed_and_deleted(pubsub: PubSub) -> None:
    pubsub.create_topic()
    pubsub.create_subscription("sub-a")
    pubsub.create_subscription("sub-b")
    project = f"projects/{pubsub.project}"
    assert [s.name for s in pubsub.subscriber.list_subscriptions(project=project)] == [
        pubsub.subscription("sub-a"),
        pubsub.subscription("sub-b"),
    ]
    pubsub.subscriber.delete_subscription(subscription=pubsub.subscription("sub-a"))
    with pytest.raises(NotFound):
        pubsub.subscriber.get_subscription(subscription=pubsub.subscription("sub-a"))
    assert list(pubsub.publisher.list_topic_subscriptions(topic=pubsub.topic())) == [pubsub.subscription("sub-b")]


def test_a_subscription_needs_a_topic_and_a_dead_letter_topic_that_exist(pubsub: PubSub) -> None:
    with pytest.raises(NotFound):
        pubsub.create_subscription()
    pubsub.create_topic()
    with pytest.raises(NotFound):
        pubsub.create_subscription(dead_letter_policy={"dead_letter_topic": pubsub.topic("cab-none")})
    pubsub.create_subscription()
    with pytest.raises(AlreadyExists):
        pubsub.create_subscription()


def test_names_shorter_than_three_characters_are_refused(pubsub: PubSub) -> None:
    with pytest.raises(InvalidArgument):
        pubsub.create_topic("ab")


def test_the_push_endpoint_of_a_subscription_can_change(pubsub: PubSub, receiver: Receiver) -> None:
    pubsub.create_topic()
    pubsub.create_subscription(push_config={"push_endpoint": receiver.url + "/old"})
    pubsub.subscriber.modify_push_config(
        subscription=pubsub.subscription(), push_config={"push_endpoint": receiver.url + "/new"}
    )
    pubsub.publish(b"event")
    assert receiver.wait_for(1)[0].path == "/new"


def test_a_changed_retry_policy_is_kept(pubsub: PubSub) -> None:
    pubsub.create_topic()
    name = pubsub.create_subscription()
    changed = pubsub.subscriber.update_subscription(
        request={
            "subscription": {"name": name, "retry_policy": {"minimum_backoff": Duration(seconds=3)}},
            "update_mask": {"paths": ["retry_policy"]},
        }
    )
    assert changed.retry_policy.minimum_backoff == timedelta(seconds=3)


# Publishing and pulling


def test_publishing_to_a_missing_topic_fails_with_not_found(pubsub: PubSub) -> None:
    with pytest.raises(NotFound):
        pubsub.publish(b"event")


def test_an_empty_message_is_refused(pubsub: PubSub) -> None:
    pubsub.create_topic()
    with pytest.raises(InvalidArgument):
        pubsub.publish(b"")


def test_every_subscription_gets_the_message_with_data_and_attributes(pubsub: PubSub) -> None:
    pubsub.create_topic()
    pubsub.create_subscription("sub-a")
    pubsub.create_subscription("sub-b")
    message_id = pubsub.publish(b"event", event_type="exchange.decided")
    for name in ("sub-a", "sub-b"):
        [received] = pubsub.pull(name)
        assert received.message.message_id == message_id
        assert received.message.data == b"event"
        assert dict(received.message.attributes) == {"event_type": "exchange.decided"}
        assert received.delivery_attempt == 0


def test_message_ids_differ(pubsub: PubSub) -> None:
    pubsub.create_topic()
    assert len({pubsub.publish(b"event") for _ in range(5)}) == 5


def test_an_acknowledged_message_is_gone_and_a_refused_one_comes_again(pubsub: PubSub) -> None:
    pubsub.create_topic()
    pubsub.create_subscription()
    kept, dropped = pubsub.publish(b"kept"), pubsub.publish(b"dropped")
    received = {message.message.message_id: message for message in pull_all(pubsub, 2)}
    assert set(received) == {kept, dropped}
    pubsub.acknowledge([received[dropped]])
    pubsub.refuse([received[kept]])
    [again] = pubsub.pull()
    assert again.message.message_id == kept


def test_messages_with_one_ordering_key_come_in_order(pubsub: PubSub) -> None:
    pubsub.create_topic()
    pubsub.create_subscription(enable_message_ordering=True)
    for number in range(5):
        pubsub.publish(str(number).encode(), ordering_key="chain-1")
    order: list[str] = []
    while len(order) < 5:
        received = pubsub.pull()
        order += [message.message.data.decode() for message in received]
        pubsub.acknowledge(received)
    assert order == ["0", "1", "2", "3", "4"]


def test_pulled_messages_count_attempts_and_end_as_dead_letters(pubsub: PubSub) -> None:
    pubsub.create_topic()
    pubsub.create_topic("cab-dead")
    pubsub.create_subscription("graveyard", "cab-dead")
    pubsub.create_subscription(
        dead_letter_policy={"dead_letter_topic": pubsub.topic("cab-dead"), "max_delivery_attempts": 5}
    )
    pubsub.publish(b"poison", event_type="x")
    attempts = []
    for _ in range(5):
        [received] = pubsub.pull()
        attempts.append(received.delivery_attempt)
        pubsub.refuse([received])
    assert attempts == [1, 2, 3, 4, 5]
    assert pubsub.pull(timeout_s=1.0) == []  # the official emulator moves a dead letter only when asked for messages
    [dead] = pubsub.pull("graveyard")
    assert dead.message.data == b"poison"
    assert_dead_letter_attributes(pubsub, dict(dead.message.attributes))


def test_a_streaming_subscriber_gets_messages_as_they_come(pubsub: PubSub) -> None:
    pubsub.create_topic()
    pubsub.create_subscription()
    received: list[bytes] = []
    both = threading.Event()

    def accept(message: Any) -> None:
        received.append(message.data)
        message.ack()
        if len(received) == 2:
            both.set()

    future = pubsub.subscriber.subscribe(pubsub.subscription(), accept)
    pubsub.publish(b"one")
    pubsub.publish(b"two")
    assert both.wait(10)
    future.cancel()
    future.result(timeout=10)
    assert sorted(received) == [b"one", b"two"]


async def test_the_generated_asynchronous_client_publishes(emulators: Emulators, pubsub: PubSub) -> None:
    import grpc.aio

    pubsub.create_topic()
    pubsub.create_subscription()
    async with grpc.aio.insecure_channel(emulators.address("pubsub")) as channel:
        client = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
        published = await client.publish(
            request={"topic": pubsub.topic(), "messages": [{"data": b"event"}]}, retry=None, timeout=5
        )
    [received] = pubsub.pull()
    assert [received.message.message_id] == list(published.message_ids)


# Pushing


def test_a_push_carries_the_wrapped_message(pubsub: PubSub, receiver: Receiver) -> None:
    pubsub.create_topic()
    pubsub.create_subscription(push_config={"push_endpoint": receiver.url + "/ingest?part=1"})
    message_id = pubsub.publish(b'{"event_id":"e1"}', event_type="exchange.decided")
    [push] = receiver.wait_for(1)
    assert push.path == "/ingest?part=1"
    assert push.headers["content-type"].startswith("application/json")
    published_at = push.body["message"]["publishTime"]
    assert push.body == {
        "subscription": pubsub.subscription(),
        "message": {
            "data": base64.b64encode(b'{"event_id":"e1"}').decode(),
            "attributes": {"event_type": "exchange.decided"},
            "messageId": message_id,
            "message_id": message_id,
            "publishTime": published_at,
            "publish_time": published_at,
        },
    }
    assert abs(datetime.fromisoformat(published_at) - datetime.now(UTC)) < timedelta(minutes=1)
    assert published_at.endswith("Z")


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_acknowledging_answer_ends_the_delivery(pubsub: PubSub, receiver: Receiver, status: int) -> None:
    receiver.then = status
    pubsub.create_topic()
    pubsub.create_subscription(push_config={"push_endpoint": receiver.url})
    first = pubsub.publish(b"first")
    receiver.wait_for(1)
    last = pubsub.publish(b"last")
    pushes = receiver.wait_until(lambda pushes: any(message_id(push) == last for push in pushes))
    assert [message_id(push) for push in pushes] == [first, last]


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500, 503])
def test_any_other_answer_is_pushed_again(pubsub: PubSub, receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    pubsub.create_topic()
    pubsub.create_subscription(push_config={"push_endpoint": receiver.url})
    published = pubsub.publish(b"event")
    pushes = receiver.wait_for(2)
    assert {message_id(push) for push in pushes} == {published}


def test_retries_keep_the_minimum_backoff(pubsub: PubSub, receiver: Receiver) -> None:
    receiver.statuses = [500, 500]
    pubsub.create_topic()
    pubsub.create_subscription(
        push_config={"push_endpoint": receiver.url},
        retry_policy={"minimum_backoff": Duration(seconds=1), "maximum_backoff": Duration(seconds=1)},
    )
    pubsub.publish(b"event")
    first, second, third = (push.at for push in receiver.wait_for(3))
    assert second - first >= 0.9
    assert third - second >= 0.9


def test_an_unreachable_endpoint_is_tried_until_it_answers(pubsub: PubSub, receiver: Receiver) -> None:
    pubsub.create_topic()
    pubsub.create_subscription(push_config={"push_endpoint": "http://127.0.0.1:1/nobody"})
    published = pubsub.publish(b"event")
    pubsub.subscriber.modify_push_config(
        subscription=pubsub.subscription(), push_config={"push_endpoint": receiver.url}
    )
    assert [message_id(push) for push in receiver.wait_for(1)] == [published]


def test_a_message_that_is_always_refused_goes_to_the_dead_letter_topic(pubsub: PubSub, receiver: Receiver) -> None:
    receiver.then = 500
    pubsub.create_topic()
    pubsub.create_topic("cab-dead")
    pubsub.create_subscription("graveyard", "cab-dead")
    pubsub.create_subscription(
        push_config={"push_endpoint": receiver.url},
        dead_letter_policy={"dead_letter_topic": pubsub.topic("cab-dead"), "max_delivery_attempts": 5},
    )
    published = pubsub.publish(b"poison", event_type="x")
    [dead] = wait_pull(pubsub, "graveyard")
    assert [message_id(push) for push in receiver.pushes] == [published] * 5
    assert dead.message.data == b"poison"
    assert dead.message.message_id != published
    assert_dead_letter_attributes(pubsub, dict(dead.message.attributes))


def test_a_refused_ordered_message_holds_back_the_later_ones(pubsub: PubSub, receiver: Receiver) -> None:
    pubsub.create_topic()
    pubsub.create_subscription(push_config={"push_endpoint": receiver.url}, enable_message_ordering=True)
    receiver.statuses = [500]
    first = pubsub.publish(b"first", ordering_key="chain-1")
    second = pubsub.publish(b"second", ordering_key="chain-1")
    pushes = receiver.wait_until(lambda pushes: any(message_id(push) == second for push in pushes))
    assert [message_id(push) for push in pushes] == [first, first, second]


def message_id(push: Any) -> str:
    return str(push.body["message"]["messageId"])


def pull_all(pubsub: PubSub, count: int) -> list[Any]:
    received: list[Any] = []
    while len(received) < count:
        received += pubsub.pull()
    return received


def wait_pull(pubsub: PubSub, name: str) -> list[Any]:
    for _ in range(5):
        received = pubsub.pull(name)
        if received:
            return received
    return []


def assert_dead_letter_attributes(pubsub: PubSub, attributes: dict[str, str]) -> None:
    assert attributes.pop(f"{SOURCE}TopicPublishTime").endswith("Z")
    assert attributes == {
        "event_type": "x",
        f"{SOURCE}DeliveryCount": "5",
        f"{SOURCE}Subscription": "ingest-audit",
        f"{SOURCE}SubscriptionProject": pubsub.project,
    }
