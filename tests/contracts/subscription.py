"""What arrives on a topic, read by a subscription of the test's own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from cab.use_cases.audit.packing import unpack

TIMEOUT_S = 10.0
_LAST = b"the last"


@dataclass(frozen=True, slots=True)
class Received:
    data: bytes
    attributes: dict[str, str]


class Subscription:
    """A new topic with one subscription that has seen nothing yet.

    Who awaits what is still to come lets the sender in the same event loop go on; `..._until_now` block.
    """

    def __init__(self, address: str, project: str, topic: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._name = f"projects/{project}/subscriptions/{topic}-test"
        self._topic = f"projects/{project}/topics/{topic}"
        self._publisher = PublisherClient(transport=PublisherGrpcTransport(channel=self._channel))
        self._publisher.create_topic(name=self._topic, timeout=TIMEOUT_S)
        self._subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._subscriber.create_subscription(name=self._name, topic=self._topic, timeout=TIMEOUT_S)

    async def receive(self, count: int) -> list[Received]:
        """The next `count` messages, in no order; fewer when no more come."""
        received: list[Received] = []
        while len(received) < count:
            messages = await asyncio.to_thread(self._pull, count - len(received))
            if not messages:
                break
            received += messages
        return received

    def _pull(self, most: int) -> list[Received]:
        request: dict[str, Any] = {"subscription": self._name, "max_messages": most}
        messages = self._subscriber.pull(request, timeout=TIMEOUT_S, retry=None).received_messages
        if messages:
            self._subscriber.acknowledge(
                subscription=self._name, ack_ids=[message.ack_id for message in messages], timeout=TIMEOUT_S
            )
        return [Received(m.message.data, dict(m.message.attributes)) for m in messages]

    async def events(self, count: int) -> list[bytes]:
        """The next `count` audit events and what else was published by then, in no order, however packed; fewer when no more come."""
        found: list[bytes] = []
        while len(found) < count:
            messages = await asyncio.to_thread(self._pull, 1000)
            if not messages:
                return found
            for message in messages:
                found += unpack(message.data)
        return found + await asyncio.to_thread(self.events_until_now)

    def events_until_now(self) -> list[bytes]:
        return [event for message in self.messages_until_now() for event in unpack(message.data)]

    def messages_until_now(self) -> list[Received]:
        """Every message that was published before and not read yet, in no order. Waits for no other.

        A message of our own is published last: whoever gets it has got what came before it. (Google's does not promise that.)
        """
        self._publisher.publish(topic=self._topic, messages=[PubsubMessage(data=_LAST)], timeout=TIMEOUT_S)
        found: list[Received] = []
        while _LAST not in [message.data for message in found]:
            messages = self._pull(1000)
            assert messages, "our own message did not come"
            found += messages
        return [message for message in found if message.data != _LAST]

    def close(self) -> None:
        self._channel.close()
