"""The methods of `google.pubsub.v1.Publisher` and `google.pubsub.v1.Subscriber`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import empty_pb2  # type: ignore[import-untyped,unused-ignore]
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    DeleteSubscriptionRequest,
    DeleteTopicRequest,
    GetSubscriptionRequest,
    GetTopicRequest,
    ListSubscriptionsRequest,
    ListSubscriptionsResponse,
    ListTopicsRequest,
    ListTopicsResponse,
    ListTopicSubscriptionsRequest,
    ListTopicSubscriptionsResponse,
    ModifyAckDeadlineRequest,
    ModifyPushConfigRequest,
    PublishRequest,
    PublishResponse,
    PubsubMessage,
    PullRequest,
    PullResponse,
    PushConfig,
    ReceivedMessage,
    StreamingPullRequest,
    StreamingPullResponse,
    Subscription,
    Topic,
    UpdateSubscriptionRequest,
)

from gcp_emulators.pubsub.leases import DEFAULT_ACK_DEADLINE_S, Leases
from gcp_emulators.pubsub.names import check_name
from gcp_emulators.pubsub.push import Pusher, TokenSource
from gcp_emulators.pubsub.store import PubSubStore
from gcp_emulators.storage import atomically
from gcp_emulators.wire.rpc import Codec, Method, RpcError, proto_plus, protobuf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from gcp_emulators.faults import FaultBook
    from gcp_emulators.pubsub.store import Delivery

    Item = TypeVar("Item")

PUBLISHER = "google.pubsub.v1.Publisher"
SUBSCRIBER = "google.pubsub.v1.Subscriber"
PULL_WAIT_S = 5.0  # how long a pull waits for a first message
_MAX_PAGE = 1000
_RETENTION = timedelta(days=7)
_CHANGEABLE = {
    "ack_deadline_seconds",
    "dead_letter_policy",
    "expiration_policy",
    "labels",
    "message_retention_duration",
    "push_config",
    "retain_acked_messages",
    "retry_policy",
}


class PubSubService:
    """Pub/Sub: pull, streaming pull and push with an OIDC token, back-off, dead letters, ordering keys.

    Delivery is at least once; undelivered messages survive a restart when there is a data folder.
    Refuses with UNIMPLEMENTED what it would otherwise silently not do: filters, exactly-once, unwrapped pushes,
    message transforms, BigQuery and Cloud Storage subscriptions. Has no schemas, snapshots, seek, retention, IAM.
    """

    def __init__(self, data_dir: str, faults: FaultBook, token_source: TokenSource | None) -> None:
        self._store = PubSubStore(data_dir)
        self._leases = Leases(self._store)
        self._has_tokens = token_source is not None
        self._pusher = Pusher(self._store, self._leases, faults, token_source)

    def methods(self) -> dict[str, list[Method]]:
        return {PUBLISHER: self._publisher_methods(), SUBSCRIBER: self._subscriber_methods()}

    async def run(self) -> None:
        """Redeliver and push until cancelled."""
        await self._pusher.run()

    def delete_project(self, project: str) -> None:
        """Remove all topics, subscriptions and messages of a project."""
        with atomically(self._store.connection):
            self._store.delete_project(project)

    def close(self) -> None:
        self._store.connection.close()

    def _publisher_methods(self) -> list[Method]:
        topic = proto_plus(Topic)
        return [
            _method("CreateTopic", topic, topic, self.create_topic),
            _method("GetTopic", proto_plus(GetTopicRequest), topic, self.get_topic),
            _method("ListTopics", proto_plus(ListTopicsRequest), proto_plus(ListTopicsResponse), self.list_topics),
            _method(
                "ListTopicSubscriptions",
                proto_plus(ListTopicSubscriptionsRequest),
                proto_plus(ListTopicSubscriptionsResponse),
                self.list_topic_subscriptions,
            ),
            _method("DeleteTopic", proto_plus(DeleteTopicRequest), _EMPTY, self.delete_topic),
            _method("Publish", proto_plus(PublishRequest), proto_plus(PublishResponse), self.publish),
        ]

    def _subscriber_methods(self) -> list[Method]:
        subscription = proto_plus(Subscription)
        return [
            _method("CreateSubscription", subscription, subscription, self.create_subscription),
            _method("GetSubscription", proto_plus(GetSubscriptionRequest), subscription, self.get_subscription),
            _method(
                "ListSubscriptions",
                proto_plus(ListSubscriptionsRequest),
                proto_plus(ListSubscriptionsResponse),
                self.list_subscriptions,
            ),
            _method(
                "UpdateSubscription",
                proto_plus(UpdateSubscriptionRequest),
                subscription,
                self.update_subscription,
            ),
            _method("ModifyPushConfig", proto_plus(ModifyPushConfigRequest), _EMPTY, self.modify_push_config),
            _method("DeleteSubscription", proto_plus(DeleteSubscriptionRequest), _EMPTY, self.delete_subscription),
            Method(
                "Pull",
                proto_plus(PullRequest),
                proto_plus(PullResponse),
                self.pull,
                _resources,
                knows_deadline=True,
            ),
            Method(
                "StreamingPull",
                proto_plus(StreamingPullRequest),
                proto_plus(StreamingPullResponse),
                self.streaming_pull,
                _resources,
                streams_requests=True,
            ),
            _method("Acknowledge", proto_plus(AcknowledgeRequest), _EMPTY, self.acknowledge),
            _method("ModifyAckDeadline", proto_plus(ModifyAckDeadlineRequest), _EMPTY, self.modify_ack_deadline),
        ]

    def create_topic(self, topic: Topic) -> Topic:
        """Raises: RpcError ALREADY_EXISTS, INVALID_ARGUMENT."""
        check_name(topic.name, "topics")
        if self._store.topic(topic.name) is not None:
            raise RpcError(grpc.StatusCode.ALREADY_EXISTS, "Topic already exists")
        self._store.add_topic(topic)
        return topic

    def get_topic(self, request: GetTopicRequest) -> Topic:
        return self._topic(request.topic)

    def list_topics(self, request: ListTopicsRequest) -> ListTopicsResponse:
        page, token = _page(self._store.topics(request.project), request.page_size, request.page_token)
        return ListTopicsResponse(topics=page, next_page_token=token)

    def list_topic_subscriptions(self, request: ListTopicSubscriptionsRequest) -> ListTopicSubscriptionsResponse:
        self._topic(request.topic)
        names = [subscription.name for subscription in self._store.subscriptions_of(request.topic)]
        page, token = _page(names, request.page_size, request.page_token)
        return ListTopicSubscriptionsResponse(subscriptions=page, next_page_token=token)

    def delete_topic(self, request: DeleteTopicRequest) -> Any:
        self._topic(request.topic)
        with atomically(self._store.connection):
            self._store.delete_topic(request.topic)
        return empty_pb2.Empty()

    def publish(self, request: PublishRequest) -> PublishResponse:
        """Raises: RpcError NOT_FOUND, INVALID_ARGUMENT for no message or one without data and attributes."""
        self._topic(request.topic)
        if not request.messages or any(not (m.data or m.attributes) for m in request.messages):
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "Each message needs non-empty data or an attribute.")
        return PublishResponse(message_ids=self._leases.publish(request.topic, request.messages))

    def create_subscription(self, request: Subscription) -> Subscription:
        """Raises: RpcError ALREADY_EXISTS, NOT_FOUND for its topic, INVALID_ARGUMENT, UNIMPLEMENTED."""
        check_name(request.name, "subscriptions")
        subscription = Subscription(request)
        subscription.ack_deadline_seconds = subscription.ack_deadline_seconds or DEFAULT_ACK_DEADLINE_S
        if "message_retention_duration" not in subscription:
            subscription.message_retention_duration = _RETENTION
        self._check(subscription)
        self._topic(subscription.topic)
        if self._store.subscription(subscription.name) is not None:
            raise RpcError(grpc.StatusCode.ALREADY_EXISTS, "Subscription already exists")
        self._store.put_subscription(subscription)
        return subscription

    def get_subscription(self, request: GetSubscriptionRequest) -> Subscription:
        return self._subscription(request.subscription)

    def list_subscriptions(self, request: ListSubscriptionsRequest) -> ListSubscriptionsResponse:
        found = self._store.subscriptions(request.project)
        page, token = _page(found, request.page_size, request.page_token)
        return ListSubscriptionsResponse(subscriptions=page, next_page_token=token)

    def update_subscription(self, request: UpdateSubscriptionRequest) -> Subscription:
        """Raises: RpcError NOT_FOUND, INVALID_ARGUMENT for a field that cannot change, UNIMPLEMENTED."""
        subscription = self._subscription(request.subscription.name)
        paths = list(request.update_mask.paths)
        if not paths or not _CHANGEABLE.issuperset(paths):
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "The update_mask must name fields that can change.")
        for path in paths:
            setattr(subscription, path, getattr(request.subscription, path))
        self._check(subscription)
        self._store.put_subscription(subscription)
        self._leases.changed.notify()
        return subscription

    def modify_push_config(self, request: ModifyPushConfigRequest) -> Any:
        """An empty push configuration makes it a pull subscription."""
        subscription = self._subscription(request.subscription)
        subscription.push_config = request.push_config
        self._check(subscription)
        self._store.put_subscription(subscription)
        self._leases.changed.notify()
        return empty_pb2.Empty()

    def delete_subscription(self, request: DeleteSubscriptionRequest) -> Any:
        self._subscription(request.subscription)
        with atomically(self._store.connection):
            self._store.delete_subscription(request.subscription)
        return empty_pb2.Empty()

    async def pull(self, request: PullRequest, time_left_s: float | None) -> PullResponse:
        """Wait a while for a first message, unless told to return immediately; then all that is ready.

        Answers before the client's deadline, with no message if none has come.
        """
        if request.max_messages <= 0:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "max_messages must be positive.")
        loop = asyncio.get_running_loop()
        patience_s = PULL_WAIT_S if time_left_s is None else min(PULL_WAIT_S, time_left_s * 0.9)
        give_up_at = loop.time() + (0.0 if request.return_immediately else patience_s)
        while True:
            subscription = self._pull_subscription(request.subscription)
            self._leases.expire()
            taken = self._leases.take(subscription, request.max_messages, for_pull=True)
            left_s = give_up_at - loop.time()
            if taken or left_s <= 0:
                return PullResponse(received_messages=[_received(subscription, d) for d in taken])
            next_s = self._leases.seconds_to_next_event()
            await self._leases.changed.wait(left_s if next_s is None else min(left_s, next_s))

    async def streaming_pull(
        self, first: StreamingPullRequest, requests: AsyncIterator[StreamingPullRequest]
    ) -> AsyncIterator[StreamingPullResponse]:
        """Send messages as they become ready; take acknowledgements and new deadlines from the same stream."""
        self._pull_subscription(first.subscription)
        window = first.max_outstanding_messages or _MAX_PAGE
        reader = asyncio.create_task(self._read_stream(first, requests))
        try:
            while not reader.done():
                subscription = self._pull_subscription(first.subscription)
                if first.stream_ack_deadline_seconds:
                    subscription.ack_deadline_seconds = first.stream_ack_deadline_seconds
                self._leases.expire()
                taken = self._leases.take(subscription, window, for_pull=True)
                if taken:
                    yield StreamingPullResponse(
                        received_messages=[_received(subscription, delivery) for delivery in taken]
                    )
                else:
                    await self._leases.changed.wait(self._leases.seconds_to_next_event())
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    def acknowledge(self, request: AcknowledgeRequest) -> Any:
        """Unknown ack ids are fine: the message may have been delivered again meanwhile."""
        self._subscription(request.subscription)
        self._acknowledge(request.ack_ids)
        return empty_pb2.Empty()

    def modify_ack_deadline(self, request: ModifyAckDeadlineRequest) -> Any:
        """0 seconds refuses the message, which is then delivered again."""
        self._subscription(request.subscription)
        for ack_id in request.ack_ids:
            self._modify_deadline(ack_id, request.ack_deadline_seconds)
        return empty_pb2.Empty()

    async def _read_stream(self, first: StreamingPullRequest, requests: AsyncIterator[StreamingPullRequest]) -> None:
        request = first
        while True:
            self._acknowledge(request.ack_ids)
            for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=False):
                self._modify_deadline(ack_id, seconds)
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                self._leases.changed.notify()
                return

    def _acknowledge(self, ack_ids: Sequence[str]) -> None:
        for ack_id in ack_ids:
            delivery = self._store.by_ack_id(ack_id)
            if delivery is not None:
                self._leases.acknowledge(delivery)

    def _modify_deadline(self, ack_id: str, seconds: int) -> None:
        delivery = self._store.by_ack_id(ack_id)
        if delivery is None:
            return
        if seconds:
            self._leases.extend(delivery, seconds)
        else:
            self._leases.refuse(delivery)

    def _topic(self, name: str) -> Topic:
        topic = self._store.topic(name)
        if topic is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, "Topic not found")
        return topic

    def _subscription(self, name: str) -> Subscription:
        subscription = self._store.subscription(name)
        if subscription is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, f"Subscription does not exist (resource={_id(name)})")
        return subscription

    def _pull_subscription(self, name: str) -> Subscription:
        subscription = self._subscription(name)
        if subscription.push_config.push_endpoint:
            raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, "This subscription pushes; it cannot be pulled from.")
        return subscription

    def _check(self, subscription: Subscription) -> None:
        for field in (
            "filter",
            "enable_exactly_once_delivery",
            "message_transforms",
            "bigquery_config",
            "cloud_storage_config",
        ):
            if field in subscription and getattr(subscription, field):
                raise RpcError(grpc.StatusCode.UNIMPLEMENTED, f"The embedded emulator does not support {field}.")
        if not 10 <= subscription.ack_deadline_seconds <= 600:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_seconds must be between 10 and 600.")
        policy = subscription.dead_letter_policy
        if policy.dead_letter_topic and self._store.topic(policy.dead_letter_topic) is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, "Dead letter topic not found")
        attempts = policy.max_delivery_attempts
        if attempts and not 5 <= attempts <= 100:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "max_delivery_attempts must be between 5 and 100.")
        self._check_push(subscription.push_config)

    def _check_push(self, push: PushConfig) -> None:
        if "no_wrapper" in push:
            raise RpcError(grpc.StatusCode.UNIMPLEMENTED, "The embedded emulator does not support no_wrapper.")
        if push.push_endpoint and not push.push_endpoint.startswith(("http://", "https://")):
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "The push endpoint is not a URL.")
        if push.oidc_token.service_account_email and not self._has_tokens:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "The subscription wants an OIDC token, but the emulator was started without --identity-url.",
            )


_EMPTY = protobuf(empty_pb2.Empty)


def _method(name: str, request: Codec, response: Codec, call: Callable[..., Any]) -> Method:
    return Method(name, request, response, call, _resources)


def _resources(request: Any) -> Sequence[str]:
    """The topic and subscription that a request names, for faults and the call log."""
    if isinstance(request, UpdateSubscriptionRequest):
        return [request.subscription.name]
    names = [getattr(request, field, "") for field in ("name", "subscription", "topic", "project")]
    return [name for name in names if name]


def _received(subscription: Subscription, delivery: Delivery) -> ReceivedMessage:
    has_dead_letters = bool(subscription.dead_letter_policy.dead_letter_topic)
    return ReceivedMessage(
        ack_id=delivery.ack_id,
        message=PubsubMessage(delivery.message),
        delivery_attempt=delivery.attempts if has_dead_letters else 0,
    )


def _id(name: str) -> str:
    return name.rpartition("/")[2]


def _page(items: Sequence[Item], size: int, token: str) -> tuple[Sequence[Item], str]:
    start = int(token) if token.isascii() and token.isdigit() else 0
    end = start + (min(size, _MAX_PAGE) if size > 0 else _MAX_PAGE)
    return items[start:end], str(end) if end < len(items) else ""
