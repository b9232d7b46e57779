"""Topics, subscriptions and undelivered messages in SQLite. One row per message and subscription."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.pubsub_v1.types import PubsubMessage, Subscription, Topic

from gcp_emulators.storage import open_database, prefix_range

if TYPE_CHECKING:
    import sqlite3

_SCHEMA = """
create table if not exists topic(name text primary key, body blob not null);
create table if not exists subscription(name text primary key, topic text not null, body blob not null);
create table if not exists last_message(id integer primary key autoincrement);
create table if not exists message(
    id integer primary key autoincrement, subscription text not null, ordering_key text not null,
    body blob not null, attempts integer not null default 0, due_at real not null, lease_until real, ack_id text);
create index if not exists message_due on message(subscription, due_at);
create index if not exists message_lease on message(lease_until, due_at);
create index if not exists message_ack on message(ack_id);
"""
DELETED_TOPIC = "_deleted-topic_"
_COLUMNS = "id, subscription, ordering_key, body, attempts, lease_until, ack_id"


@dataclass(frozen=True)
class Delivery:
    """A message on its way to one subscription. `attempts` counts the deliveries so far, this one included.

    `lease_until` is in seconds since 1970; after it the message is delivered again. Pushes have no `ack_id`.
    """

    id: int
    subscription: str
    ordering_key: str
    message: PubsubMessage
    attempts: int
    lease_until: float | None
    ack_id: str | None


class PubSubStore:
    """Plain reads and writes; when to deliver what is decided in `leases`."""

    def __init__(self, data_dir: str) -> None:
        self.connection = open_database(data_dir, "pubsub", _SCHEMA)
        # A push that was under way when the process was killed has no outcome: deliver it again, now.
        self.connection.execute(
            "update message set lease_until = null where lease_until is not null and ack_id is null"
        )

    def topic(self, name: str) -> Topic | None:
        row = self.connection.execute("select body from topic where name = ?", (name,)).fetchone()
        return None if row is None else Topic.deserialize(row[0])

    def topics(self, project: str) -> list[Topic]:
        rows = self.connection.execute(
            "select body from topic where name >= ? and name < ? order by name", prefix_range(f"{project}/topics/")
        )
        return [Topic.deserialize(body) for (body,) in rows]

    def add_topic(self, topic: Topic) -> None:
        self.connection.execute("insert into topic values (?, ?)", (topic.name, Topic.serialize(topic)))

    def delete_topic(self, name: str) -> None:
        """Remove a topic. Its subscriptions keep their messages and get no more."""
        self.connection.execute("delete from topic where name = ?", (name,))
        for subscription in self.subscriptions_of(name):
            subscription.topic = DELETED_TOPIC
            self.put_subscription(subscription)

    def subscription(self, name: str) -> Subscription | None:
        row = self.connection.execute("select body from subscription where name = ?", (name,)).fetchone()
        return None if row is None else Subscription.deserialize(row[0])

    def subscriptions(self, project: str) -> list[Subscription]:
        """The subscriptions of `projects/ID`."""
        return self._subscriptions("name >= ? and name < ? order by name", prefix_range(f"{project}/subscriptions/"))

    def subscriptions_of(self, topic: str) -> list[Subscription]:
        return self._subscriptions("topic = ? order by name", (topic,))

    def push_subscriptions(self) -> list[Subscription]:
        """Of all projects: those with an endpoint and something to deliver."""
        with_messages = self._subscriptions(
            "exists (select 1 from message where message.subscription = subscription.name)", ()
        )
        return [subscription for subscription in with_messages if subscription.push_config.push_endpoint]

    def put_subscription(self, subscription: Subscription) -> None:
        self.connection.execute(
            "insert or replace into subscription values (?, ?, ?)",
            (subscription.name, subscription.topic, Subscription.serialize(subscription)),
        )

    def delete_subscription(self, name: str) -> None:
        self.connection.execute("delete from subscription where name = ?", (name,))
        self.connection.execute("delete from message where subscription = ?", (name,))

    def next_message_id(self) -> str:
        """An id that was never given out before, also not before a restart."""
        return str(self.connection.execute("insert into last_message default values").lastrowid)

    def enqueue(self, subscription: str, message: PubsubMessage, due_at: float) -> None:
        self.connection.execute(
            "insert into message(subscription, ordering_key, body, due_at) values (?, ?, ?, ?)",
            (subscription, message.ordering_key, PubsubMessage.serialize(message), due_at),
        )

    def ready(self, subscription: str, now: float, limit: int) -> list[Delivery]:
        """Messages that are due and not out, oldest first, whatever their ordering key."""
        rows = self.connection.execute(
            f"select {_COLUMNS} from message where subscription = ? and due_at <= ? and lease_until is null"  # noqa: S608
            " order by id limit ?",
            (subscription, now, limit),
        )
        return [_delivery(row) for row in rows]

    def ready_in_order(self, subscription: str, now: float, limit: int, *, one_per_key: bool) -> list[Delivery]:
        """The same, but a message with an ordering key waits for all earlier ones of its key.

        With `one_per_key` it waits until they are acknowledged; otherwise it may come in the same answer after them.
        """
        blocked: set[str] = set()
        found: list[int] = []
        rows = self.connection.execute(
            "select id, ordering_key, due_at <= ? and lease_until is null from message where subscription = ?"
            " order by id",
            (now, subscription),
        )
        for row_id, key, is_ready in rows:
            if len(found) == limit:
                break
            if key and key in blocked:
                continue
            if is_ready:
                found.append(row_id)
            if key and (one_per_key or not is_ready):
                blocked.add(key)
        return [delivery for row_id in found if (delivery := self.delivery(row_id))]

    def delivery(self, row_id: int) -> Delivery | None:
        row = self.connection.execute(f"select {_COLUMNS} from message where id = ?", (row_id,)).fetchone()  # noqa: S608
        return None if row is None else _delivery(row)

    def by_ack_id(self, ack_id: str) -> Delivery | None:
        row = self.connection.execute(f"select {_COLUMNS} from message where ack_id = ?", (ack_id,)).fetchone()  # noqa: S608
        return None if row is None else _delivery(row)

    def lease(self, delivery: Delivery, until: float, *, for_pull: bool) -> Delivery:
        """Mark a message as out, count the attempt, and for a pull give it an ack id."""
        ack_id = uuid.uuid4().hex if for_pull else None
        self.connection.execute(
            "update message set lease_until = ?, ack_id = ?, attempts = attempts + 1 where id = ?",
            (until, ack_id, delivery.id),
        )
        leased = self.delivery(delivery.id)
        assert leased is not None  # noqa: S101  # updated one line above, in the only thread
        return leased

    def extend_lease(self, delivery: Delivery, until: float) -> None:
        self.connection.execute("update message set lease_until = ? where id = ?", (until, delivery.id))

    def release(self, delivery: Delivery, due_at: float) -> None:
        """Take a message back for delivery at `due_at`, and with it all later ones of its ordering key."""
        self.connection.execute(
            "update message set lease_until = null, ack_id = null, due_at = ? where id = ?", (due_at, delivery.id)
        )
        if delivery.ordering_key:
            self.connection.execute(
                "update message set lease_until = null, ack_id = null"
                " where subscription = ? and ordering_key = ? and id > ? and ack_id is not null",
                (delivery.subscription, delivery.ordering_key, delivery.id),
            )

    def remove(self, delivery: Delivery) -> None:
        self.connection.execute("delete from message where id = ?", (delivery.id,))

    def expired(self, now: float) -> list[Delivery]:
        """Messages whose lease has run out."""
        rows = self.connection.execute(
            f"select {_COLUMNS} from message where lease_until <= ? order by id",  # noqa: S608
            (now,),
        )
        return [_delivery(row) for row in rows]

    def next_event_at(self, now: float) -> float | None:
        """When the next lease runs out or the next waiting message becomes due, in seconds since 1970."""
        (next_at,) = self.connection.execute(
            "select min(at) from (select min(lease_until) at from message union all"
            " select min(due_at) at from message where lease_until is null and due_at > ?)",
            (now,),
        ).fetchone()
        return None if next_at is None else float(next_at)

    def delete_project(self, project: str) -> None:
        """Remove everything of a project given by its bare id."""
        names = prefix_range(f"projects/{project}/")
        self.connection.execute("delete from topic where name >= ? and name < ?", names)
        self.connection.execute("delete from subscription where name >= ? and name < ?", names)
        self.connection.execute("delete from message where subscription >= ? and subscription < ?", names)

    def _subscriptions(self, condition: str, parameters: tuple[str, ...]) -> list[Subscription]:
        rows = self.connection.execute(f"select body from subscription where {condition}", parameters)  # noqa: S608
        return [Subscription.deserialize(body) for (body,) in rows]


def _delivery(row: sqlite3.Row | tuple[int, str, str, bytes, int, float | None, str | None]) -> Delivery:
    row_id, subscription, ordering_key, body, attempts, lease_until, ack_id = row
    message = PubsubMessage.deserialize(body)
    return Delivery(row_id, subscription, ordering_key, message, attempts, lease_until, ack_id)
