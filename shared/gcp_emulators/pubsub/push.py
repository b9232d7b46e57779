"""Push delivery: takes messages that are ready and posts them to the endpoints of their subscriptions."""

from __future__ import annotations

import asyncio
import base64
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp

from cab_dev.identity_client import TokenUnavailable
from gcp_emulators.pubsub.leases import publish_time

if TYPE_CHECKING:
    from google.pubsub_v1.types import Subscription

    from gcp_emulators.faults import FaultBook
    from gcp_emulators.pubsub.leases import Leases
    from gcp_emulators.pubsub.store import Delivery, PubSubStore

_log = logging.getLogger(__name__)

TokenSource = Callable[[str, str], str | Awaitable[str]]
"""Gives an OIDC token for (service account e-mail, audience), or raises TokenUnavailable."""

ACKNOWLEDGING = frozenset({102, 200, 201, 202, 204})
_MAX_IN_FLIGHT = 32  # per subscription; production starts lower and adapts


class Pusher:
    """One background task that starts deliveries, and one short task for each delivery under way."""

    def __init__(self, store: PubSubStore, leases: Leases, faults: FaultBook, token_source: TokenSource | None) -> None:
        self._store = store
        self._leases = leases
        self._faults = faults
        self._token_source = token_source
        self._in_flight: Counter[str] = Counter()
        self._deliveries: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver until cancelled. Sleeps until something changes or becomes due."""
        async with aiohttp.ClientSession() as session:
            try:
                while True:
                    self._leases.expire()
                    for subscription in self._store.push_subscriptions():
                        self._start_deliveries(session, subscription)
                    await self._leases.changed.wait(self._leases.seconds_to_next_event())
            finally:
                for task in self._deliveries:
                    task.cancel()
                await asyncio.gather(*self._deliveries, return_exceptions=True)

    def _start_deliveries(self, session: aiohttp.ClientSession, subscription: Subscription) -> None:
        free = _MAX_IN_FLIGHT - self._in_flight[subscription.name]
        for delivery in self._leases.take(subscription, free, for_pull=False) if free > 0 else ():
            self._in_flight[subscription.name] += 1
            task = asyncio.create_task(self._deliver(session, subscription, delivery))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, session: aiohttp.ClientSession, subscription: Subscription, delivery: Delivery) -> None:
        fault = self._faults.for_push(subscription.name)
        try:
            if fault is not None and fault.delay_s:
                self._leases.extend(delivery, fault.delay_s + subscription.ack_deadline_seconds * 2)
                await asyncio.sleep(fault.delay_s)
            copies = 1 + (0 if fault is None else fault.duplicates)
            posts = (self._post(session, subscription, delivery) for _ in range(copies))
            is_acknowledged, *_ = await asyncio.gather(*posts)
        finally:
            self._in_flight[subscription.name] -= 1
        if is_acknowledged:
            self._leases.acknowledge(delivery)
        else:
            self._leases.refuse(delivery)

    async def _post(self, session: aiohttp.ClientSession, subscription: Subscription, delivery: Delivery) -> bool:
        """One HTTP request. True when its answer acknowledges the message."""
        endpoint = subscription.push_config.push_endpoint
        headers = {"From": "noreply@google.com", "User-Agent": "CloudPubSub-Google"}
        try:
            token = await self._token(subscription)
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            async with session.post(
                endpoint,
                json=push_body(subscription, delivery),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=subscription.ack_deadline_seconds),
            ) as response:
                return response.status in ACKNOWLEDGING
        except (aiohttp.ClientError, TimeoutError, OSError, TokenUnavailable) as exc:
            _log.info("Push to %s failed: %s", endpoint, type(exc).__name__)
            return False

    async def _token(self, subscription: Subscription) -> str | None:
        wanted = subscription.push_config.oidc_token
        if not wanted.service_account_email or self._token_source is None:
            return None
        audience = wanted.audience or subscription.push_config.push_endpoint
        token = self._token_source(wanted.service_account_email, audience)
        return await token if inspect.isawaitable(token) else token


def push_body(subscription: Subscription, delivery: Delivery) -> dict[str, Any]:
    """The wrapped body of a push request.  https://cloud.google.com/pubsub/docs/push#receive_push

    `deliveryAttempt` is present with a dead-letter policy only, `orderingKey` with a key only.
    """
    message = delivery.message
    published_at = publish_time(message)
    wrapped: dict[str, Any] = {
        "data": base64.b64encode(message.data).decode("ascii"),
        "attributes": dict(message.attributes),
        "messageId": message.message_id,
        "message_id": message.message_id,
        "publishTime": published_at,
        "publish_time": published_at,
    }
    if message.ordering_key:
        wrapped["orderingKey"] = message.ordering_key
    body: dict[str, Any] = {"message": wrapped, "subscription": subscription.name}
    if subscription.dead_letter_policy.dead_letter_topic:
        body["deliveryAttempt"] = delivery.attempts
    return body
