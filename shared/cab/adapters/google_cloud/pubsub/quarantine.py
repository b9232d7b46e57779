"""`Quarantine` as a Pub/Sub topic with a subscription that only people pull from."""

from __future__ import annotations

from cab.adapters.google_cloud.pubsub.publisher import Message, PubSubPublisher


class PubSubQuarantine:
    def __init__(self, project: str, topic: str) -> None:
        self._publisher = PubSubPublisher(project, what="quarantine")
        self._topic = topic

    async def put(self, data: bytes, *, cause: str, message_id: str) -> None:
        message = Message(data, {"cause": cause, "source_message_id": message_id})
        await self._publisher.publish(self._topic, [message])

    async def close(self) -> None:
        await self._publisher.close()
