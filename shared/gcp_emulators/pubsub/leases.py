"""When a message is delivered, delivered again, and given up: leases, back-off, dead letters."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.pubsub_v1.types import PubsubMessage, Subscription

from gcp_emulators.storage import atomically

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gcp_emulators.pubsub.store import Delivery, PubSubStore

_log = logging.getLogger(__name__)

DEFAULT_ACK_DEADLINE_S = 10
DEFAULT_MAX_ATTEMPTS = 5
_POLICY_BACKOFF_S = (10.0, 600.0)  # the API's defaults when a retry policy leaves them out
_PUSH_BACKOFF_S = (0.1, 60.0)  # of push subscriptions without a retry policy
_SHORTEST_BACKOFF_S = 0.05  # keeps a policy that starts at 0 s from becoming a busy loop
_PUSH_GRACE_S = 5.0  # a push times out at the ack deadline; its lease must outlive it


class Signal:
    """Wakes everybody who waits. What happened is for them to look up."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout_s: float | None) -> None:
        """Return at the next `notify`, or after the timeout. No await between look-up and wait: nothing is missed."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=timeout_s)
        finally:
            self._waiting.discard(future)


class Leases:
    """The life of every message in every subscription."""

    def __init__(self, store: PubSubStore) -> None:
        self._store = store
        self.changed = Signal()

    def publish(self, topic: str, messages: Iterable[PubsubMessage]) -> list[str]:
        """Store messages for all subscriptions of a topic, all or none. Sets their id and publish time."""
        now = time.time()
        published_at = datetime.fromtimestamp(int(now * 1000) / 1000, UTC)  # milliseconds, as in production
        subscriptions = self._store.subscriptions_of(topic)
        ids = []
        with atomically(self._store.connection):
            for given in messages:
                message = PubsubMessage(given)
                message.message_id = self._store.next_message_id()
                message.publish_time = published_at
                ids.append(message.message_id)
                for subscription in subscriptions:
                    self._store.enqueue(subscription.name, message, now)
        self.changed.notify()
        return ids

    def take(self, subscription: Subscription, limit: int, *, for_pull: bool) -> list[Delivery]:
        """Lease up to `limit` messages that are ready now. Each counts as one more attempt."""
        now = time.time()
        if subscription.enable_message_ordering:
            ready = self._store.ready_in_order(subscription.name, now, limit, one_per_key=not for_pull)
        else:
            ready = self._store.ready(subscription.name, now, limit)
        until = now + subscription.ack_deadline_seconds + (0.0 if for_pull else _PUSH_GRACE_S)
        taken = [self._store.lease(delivery, until, for_pull=for_pull) for delivery in ready]
        if taken and for_pull:
            self.changed.notify()  # whoever sleeps until the next event must learn of these leases
        return taken

    def acknowledge(self, delivery: Delivery) -> None:
        """The message is done. Later ones of its ordering key may now go."""
        self._store.remove(delivery)
        self.changed.notify()

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """Move the end of the lease to this many seconds from now."""
        self._store.extend_lease(delivery, time.time() + seconds)
        self.changed.notify()

    def refuse(self, delivery: Delivery) -> None:
        """The subscriber did not take the message: schedule it again, or move it to the dead-letter topic."""
        subscription = self._store.subscription(delivery.subscription)
        if subscription is None:
            self._store.remove(delivery)
            return
        if not self._is_given_up(delivery, subscription):
            self._store.release(delivery, time.time() + backoff_s(subscription, delivery.attempts))
        self.changed.notify()

    def expire(self) -> None:
        """Refuse every message whose lease has run out."""
        for delivery in self._store.expired(time.time()):
            self.refuse(delivery)

    def seconds_to_next_event(self) -> float | None:
        """Until a lease runs out or a waiting message becomes due; None when nothing is pending."""
        now = time.time()
        next_at = self._store.next_event_at(now)
        return None if next_at is None else max(0.0, next_at - now)

    def _is_given_up(self, delivery: Delivery, subscription: Subscription) -> bool:
        policy = subscription.dead_letter_policy
        if not policy.dead_letter_topic:
            return False
        if delivery.attempts < (policy.max_delivery_attempts or DEFAULT_MAX_ATTEMPTS):
            return False
        if self._store.topic(policy.dead_letter_topic) is None:
            _log.warning("The dead-letter topic of %s does not exist: retrying.", subscription.name)
            return False
        self.publish(policy.dead_letter_topic, [dead_letter(delivery, subscription)])
        self._store.remove(delivery)
        return True


def backoff_s(subscription: Subscription, attempts: int) -> float:
    """Seconds until the next delivery after this many. Doubles from the minimum to the maximum, without jitter."""
    if "retry_policy" in subscription:
        policy = subscription.retry_policy
        shortest, longest = _POLICY_BACKOFF_S
        if "minimum_backoff" in policy:
            shortest = policy.minimum_backoff.total_seconds()
        if "maximum_backoff" in policy:
            longest = policy.maximum_backoff.total_seconds()
    elif subscription.push_config.push_endpoint:
        shortest, longest = _PUSH_BACKOFF_S
    else:
        return 0.0
    doublings = min(attempts - 1, 30)
    return min(longest, max(shortest, _SHORTEST_BACKOFF_S) * 2.0**doublings)


def dead_letter(delivery: Delivery, subscription: Subscription) -> PubsubMessage:
    """The message as it goes to the dead-letter topic: the same, with attributes that tell where it comes from."""
    _, project, _, subscription_id = subscription.name.split("/")
    message = PubsubMessage(delivery.message)
    message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(delivery.attempts)
    message.attributes["CloudPubSubDeadLetterSourceSubscription"] = subscription_id
    message.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
    message.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = publish_time(message)
    return message


def publish_time(message: PubsubMessage) -> str:
    """RFC 3339 with milliseconds, the precision of publish times."""
    at: datetime = message.publish_time
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
