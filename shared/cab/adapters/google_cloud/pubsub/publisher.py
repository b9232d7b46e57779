"""Publish to Pub/Sub: one unary call, acknowledged or not. No background batching that outlives the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from grpc import StatusCode

from cab.adapters import spans
from cab.adapters.google_cloud.pubsub.messages import load
from cab.adapters.google_cloud.rpc import GoogleApi, Method, routing

_pubsub = load("google.pubsub_v1", "pubsub")
_PublishRequest = _pubsub.PublishRequest.pb()
_PUBLISH = Method("/google.pubsub.v1.Publisher/Publish", _pubsub.PublishResponse.pb())
_BUDGET_S = 1.8
_ATTEMPTS = 2
_RETRY = frozenset({StatusCode.UNAVAILABLE})  # a message that arrives twice is removed by its event id


@dataclass(frozen=True, slots=True)
class Message:
    """`data` and `attributes` as subscribers get them."""

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)


class PubSubPublisher:
    """The topics of one project. Honours PUBSUB_EMULATOR_HOST. Belongs to the event loop of its first call.

    `what` is the name that `Unavailable` carries.
    """

    def __init__(self, project: str, *, what: str = "pubsub") -> None:
        self._project = project
        self._api = GoogleApi(what, host="pubsub.googleapis.com", emulator_variable="PUBSUB_EMULATOR_HOST")

    @spans.a_wait("pubsub publish")
    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        """Returns when Pub/Sub has taken all messages, at most 1.8 s later.

        Raises: Unavailable; some or all of the messages may then have been taken all the same.
        """
        name = f"projects/{self._project}/topics/{topic}"
        request = _PublishRequest(topic=name)
        for message in messages:
            request.messages.add(data=message.data, attributes=message.attributes)
        await self._api.call(
            _PUBLISH,
            request,
            budget_s=_BUDGET_S,
            metadata=(routing({"topic": quote(name, safe="")}),),
            retry_on=_RETRY,
            attempts=_ATTEMPTS,
        )

    async def close(self) -> None:
        """Let go of the connection. A later call opens a new one."""
        await self._api.close()
