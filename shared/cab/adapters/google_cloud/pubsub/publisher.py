"""Publish to Pub/Sub: one call, acknowledged or not. No background batching that outlives the request."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any
from urllib.parse import quote

from cab.adapters import spans
from cab.adapters.google_cloud.rest import GoogleApi, Status
from cab.values import immutable

_BUDGET_S = 1.8
_ATTEMPTS = 2
_RETRY = frozenset({Status.UNAVAILABLE})  # a message that arrives twice is removed by its event id


@immutable
class Message:
    """`data` and `attributes` as subscribers get them."""

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)


class PubSubPublisher:
    """The topics of one project. Honours PUBSUB_EMULATOR_HOST. Belongs to the event loop of its first call.

    `what` is the name that `Unavailable` carries.
    """

    def __init__(self, project: str, *, what: str = "pubsub") -> None:
        self._project = quote(project, safe="")
        self._api = GoogleApi(what, host="pubsub.googleapis.com", emulator_variable="PUBSUB_EMULATOR_HOST")

    @spans.a_wait("pubsub publish")
    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        """Returns when Pub/Sub has taken all messages, at most 1.8 s later.

        Raises: Unavailable; some or all of the messages may then have been taken all the same.
        """
        sent = [{"data": b64encode(message.data).decode(), "attributes": message.attributes} for message in messages]
        await self._api.call(
            "Publish",
            f"/v1/projects/{self._project}/topics/{quote(topic, safe='')}:publish",
            {"messages": sent},
            read=lambda answer: _check_taken(answer, len(sent)),
            budget_s=_BUDGET_S,
            retry_on=_RETRY,
            attempts=_ATTEMPTS,
        )

    async def close(self) -> None:
        """Let go of the connections. A later call opens new ones."""
        await self._api.close()


def _check_taken(answer: Any, count: int) -> None:
    if len(answer["messageIds"]) != count:
        raise ValueError
