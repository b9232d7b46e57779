"""What only the embedded emulators do, and what they say they do not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import Aborted, FailedPrecondition, InvalidArgument, MethodNotImplemented, NotFound
from google.cloud import firestore
from google.cloud.firestore_v1.query_profile import ExplainOptions
from google.cloud.firestore_v1.types import document
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PushConfig, Subscription
from hypothesis import given
from hypothesis import strategies as st
from tests.dev.emulators.receiver import Receiver

from gcp_emulators import Emulators
from gcp_emulators.firestore.values import get_field, set_field, sort_key, split_path
from gcp_emulators.pubsub.leases import backoff_s


@pytest.fixture
def db(embedded: Emulators, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[firestore.Client]:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", embedded.address("firestore"))
    client = firestore.Client(project=project, database="grants")
    yield client
    client.close()


@pytest.fixture
def channel(embedded: Emulators) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(embedded.address("pubsub")) as channel:
        yield channel


@pytest.fixture
def publisher(channel: grpc.Channel) -> PublisherClient:
    return PublisherClient(transport=PublisherGrpcTransport(channel=channel))


@pytest.fixture
def subscriber(channel: grpc.Channel) -> SubscriberClient:
    return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


# Firestore: transactions never wait for each other


def test_a_transaction_whose_document_changed_is_aborted(db: firestore.Client) -> None:
    db.document("grants/g1").set({"n": 1})
    transaction = db.transaction(max_attempts=1)
    transaction._begin()
    db.document("grants/g1").get(transaction=transaction)
    db.document("grants/g1").set({"n": 2})
    transaction.set(db.document("grants/g2"), {"n": 1})
    with pytest.raises(Aborted):
        transaction._commit()
    assert not db.document("grants/g2").get().exists


def test_a_transaction_that_read_nothing_where_now_is_something_is_aborted(db: firestore.Client) -> None:
    transaction = db.transaction(max_attempts=1)
    transaction._begin()
    db.document("grants/g1").get(transaction=transaction)
    db.document("grants/g1").set({"n": 2})
    transaction.set(db.document("grants/g1"), {"n": 1})
    with pytest.raises(Aborted):
        transaction._commit()


def test_a_transaction_whose_query_would_now_find_more_is_aborted(db: firestore.Client) -> None:
    transaction = db.transaction(max_attempts=1)
    transaction._begin()
    assert list(db.collection("grants").stream(transaction=transaction)) == []
    db.document("grants/phantom").set({"n": 1})
    transaction.set(db.document("counters/c1"), {"grants": 0})
    with pytest.raises(Aborted):
        transaction._commit()


def test_a_transaction_cannot_be_committed_twice(db: firestore.Client) -> None:
    transaction = db.transaction()
    transaction._begin()
    transaction_id = transaction.id
    transaction._commit()
    with pytest.raises(InvalidArgument):
        db._firestore_api.commit(
            request={"database": db._database_string, "transaction": transaction_id}, metadata=db._rpc_metadata
        )


def test_many_transactions_on_one_document_lose_no_update(db: firestore.Client) -> None:
    counter = db.document("counters/c1")
    counter.set({"n": 0})

    @firestore.transactional
    def add_one(transaction: Any) -> None:
        transaction.update(counter, {"n": counter.get(transaction=transaction).get("n") + 1})

    def succeeds(_: int) -> bool:
        try:
            add_one(db.transaction(max_attempts=20))
        except (Aborted, ValueError):
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        succeeded = sum(pool.map(succeeds, range(40)))
    assert counter.get().to_dict() == {"n": succeeded}


def test_an_increment_stays_within_64_bits(db: firestore.Client) -> None:
    db.document("limits/l1").set({"n": 2**63 - 1})
    db.document("limits/l1").update({"n": firestore.Increment(5)})
    assert db.document("limits/l1").get().to_dict() == {"n": 2**63 - 1}


def test_a_document_twice_in_one_batch_write_is_refused(db: firestore.Client) -> None:
    write = {"delete": f"{db._database_string}/documents/grants/g1"}
    with pytest.raises(InvalidArgument):
        db._firestore_api.batch_write(
            request={"database": db._database_string, "writes": [write, write]}, metadata=db._rpc_metadata
        )


def test_a_single_document_is_read_by_its_name(db: firestore.Client) -> None:
    name = f"{db._database_string}/documents/grants/g1"
    with pytest.raises(NotFound):
        db._firestore_api.get_document(request={"name": name}, metadata=db._rpc_metadata)
    db.document("grants/g1").set({"a": 1, "b": 2})
    found = db._firestore_api.get_document(
        request={"name": name, "mask": {"field_paths": ["a"]}}, metadata=db._rpc_metadata
    )
    assert list(found.fields) == ["a"]


def test_lists_come_in_pages(db: firestore.Client) -> None:
    for number in range(5):
        db.document(f"grants/{number}").set({"n": number})
        db.document(f"c{number}/d").set({"n": number})
    parent = f"{db._database_string}/documents"
    request = {"parent": parent, "collection_id": "grants", "page_size": 2}
    pages = db._firestore_api.list_documents(request=request, metadata=db._rpc_metadata).pages
    assert [[found.name.rpartition("/")[2] for found in page.documents] for page in pages] == [
        ["0", "1"],
        ["2", "3"],
        ["4"],
    ]
    request = {"parent": parent, "page_size": 4}
    listed = db._firestore_api.list_collection_ids(request=request, metadata=db._rpc_metadata)
    assert list(listed) == ["c0", "c1", "c2", "c3", "c4", "grants"]


@pytest.mark.parametrize("method", ["listen", "vector", "past", "explain"])
def test_firestore_refuses_what_it_does_not_do(db: firestore.Client, method: str) -> None:
    db.document("grants/g1").set({"n": 1})
    grants = db.collection("grants")
    name, now = f"{db._database_string}/documents/grants/g1", db.document("grants/g1").get().update_time
    nearest = {
        "parent": f"{db._database_string}/documents",
        "structured_query": {"from_": [{"collection_id": "grants"}], "find_nearest": {"limit": 1}},
    }
    calls = {
        "listen": lambda: list(db._firestore_api.listen(iter([{"database": db._database_string}]))),
        "vector": lambda: list(db._firestore_api.run_query(request=nearest, metadata=db._rpc_metadata)),
        "past": lambda: db._firestore_api.get_document(request={"name": name, "read_time": now}),
        "explain": lambda: list(grants.stream(explain_options=ExplainOptions(analyze=True))),
    }
    with pytest.raises(MethodNotImplemented):
        calls[method]()  # type: ignore[no-untyped-call]


# Firestore: the order of values


def value(**content: Any) -> Any:
    return document.Value.pb()(**content)


numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(lambda n: value(integer_value=n)),
    st.floats(allow_nan=False).map(lambda x: value(double_value=x)),
)
values = st.recursive(
    st.one_of(
        st.just(value(null_value=0)),
        st.booleans().map(lambda b: value(boolean_value=b)),
        numbers,
        st.just(value(double_value=math.nan)),
        st.text().map(lambda s: value(string_value=s)),
        st.binary().map(lambda b: value(bytes_value=b)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: value(array_value={"values": items})),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(lambda m: value(map_value={"fields": m})),
    ),
    max_leaves=6,
)


@given(st.lists(values, max_size=6))
def test_all_values_have_one_total_order(mixed: list[Any]) -> None:
    keys = sorted(sort_key(item) for item in mixed)
    assert all(a <= b for a, b in itertools.pairwise(keys))


@given(numbers, numbers)
def test_integers_and_doubles_compare_by_their_exact_value(a: Any, b: Any) -> None:
    plain = [getattr(number, number.WhichOneof("value_type")) for number in (a, b)]
    assert (sort_key(a) < sort_key(b)) == (plain[0] < plain[1])
    assert sort_key(value(double_value=math.nan)) < sort_key(a)


segments = st.text(min_size=1, max_size=6)


@given(st.lists(segments, min_size=1, max_size=4))
def test_quoted_field_paths_split_into_their_segments(path: list[str]) -> None:
    quoted = ".".join("`" + s.replace("\\", "\\\\").replace("`", "\\`") + "`" for s in path)
    assert split_path(quoted) == path
    doc = document.Document.pb()()
    set_field(doc, quoted, value(integer_value=1))
    found = get_field(doc, quoted)
    assert found is not None
    assert found.integer_value == 1


# Pub/Sub


@pytest.mark.parametrize(
    ("subscription", "expected"),
    [
        (Subscription(), [0.0, 0.0, 0.0]),
        (Subscription(push_config=PushConfig(push_endpoint="http://x")), [0.1, 0.2, 0.4]),
        (Subscription(retry_policy={"minimum_backoff": Duration(seconds=1)}), [1.0, 2.0, 4.0]),
        (
            Subscription(retry_policy={"minimum_backoff": Duration(seconds=2), "maximum_backoff": Duration(seconds=5)}),
            [2.0, 4.0, 5.0],
        ),
    ],
)
def test_the_backoff_doubles_up_to_its_maximum(subscription: Subscription, expected: list[float]) -> None:
    assert [backoff_s(subscription, attempts) for attempts in (1, 2, 3)] == expected
    assert backoff_s(subscription, 10_000) <= 600


def test_a_push_tells_its_attempt_and_ordering_key(
    publisher: PublisherClient, subscriber: SubscriberClient, project: str, receiver: Receiver
) -> None:
    receiver.statuses = [500]
    topics = [publisher.create_topic(name=f"projects/{project}/topics/{name}").name for name in ("audit", "dead")]
    subscriber.create_subscription(
        request={
            "name": f"projects/{project}/subscriptions/push",
            "topic": topics[0],
            "push_config": {"push_endpoint": receiver.url},
            "dead_letter_policy": {"dead_letter_topic": topics[1]},
            "enable_message_ordering": True,
        }
    )
    publisher.publish(topic=topics[0], messages=[{"data": b"x", "ordering_key": "chain-1"}])
    pushes = receiver.wait_for(2)
    assert [push.body["deliveryAttempt"] for push in pushes] == [1, 2]
    assert [push.body["message"]["orderingKey"] for push in pushes] == ["chain-1"] * 2
    assert pushes[0].headers["user-agent"] == "CloudPubSub-Google"
    assert pushes[0].headers["from"] == "noreply@google.com"


def test_202_acknowledges_as_in_production(
    publisher: PublisherClient, subscriber: SubscriberClient, project: str, receiver: Receiver
) -> None:
    receiver.then = 202
    topic = publisher.create_topic(name=f"projects/{project}/topics/audit").name
    name = f"projects/{project}/subscriptions/push"
    subscriber.create_subscription(name=name, topic=topic, push_config={"push_endpoint": receiver.url})
    publisher.publish(topic=topic, messages=[{"data": b"first"}])
    receiver.wait_for(1)
    publisher.publish(topic=topic, messages=[{"data": b"last"}])
    assert len({push.body["message"]["messageId"] for push in receiver.wait_for(2)}) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"filter": 'attributes.x = "1"'},
        {"enable_exactly_once_delivery": True},
        {"bigquery_config": {"table": "p.d.t"}},
        {"cloud_storage_config": {"bucket": "b"}},
        {"push_config": {"push_endpoint": "http://127.0.0.1:1", "no_wrapper": {}}},
    ],
)
def test_pubsub_refuses_what_it_does_not_do(
    publisher: PublisherClient, subscriber: SubscriberClient, project: str, options: dict[str, Any]
) -> None:
    topic = publisher.create_topic(name=f"projects/{project}/topics/audit").name
    request = {"name": f"projects/{project}/subscriptions/sub", "topic": topic} | options
    with pytest.raises(MethodNotImplemented):
        subscriber.create_subscription(request=request)


@pytest.mark.parametrize(
    "options",
    [
        {"ack_deadline_seconds": 5},
        {"push_config": {"push_endpoint": "ftp://127.0.0.1"}},
        {"dead_letter_policy": {"max_delivery_attempts": 3}},
    ],
)
def test_settings_out_of_range_are_refused(
    publisher: PublisherClient, subscriber: SubscriberClient, project: str, options: dict[str, Any]
) -> None:
    topic = publisher.create_topic(name=f"projects/{project}/topics/audit").name
    request = {"name": f"projects/{project}/subscriptions/sub", "topic": topic} | options
    with pytest.raises(InvalidArgument):
        subscriber.create_subscription(request=request)


def test_a_push_subscription_cannot_be_pulled_from(
    publisher: PublisherClient, subscriber: SubscriberClient, project: str, receiver: Receiver
) -> None:
    topic = publisher.create_topic(name=f"projects/{project}/topics/audit").name
    name = f"projects/{project}/subscriptions/push"
    subscriber.create_subscription(name=name, topic=topic, push_config={"push_endpoint": receiver.url})
    with pytest.raises(FailedPrecondition):
        subscriber.pull(subscription=name, max_messages=1)


def test_a_deleted_topic_leaves_its_subscription_with_the_messages(
    publisher: PublisherClient, subscriber: SubscriberClient, project: str
) -> None:
    topic = publisher.create_topic(name=f"projects/{project}/topics/audit").name
    name = f"projects/{project}/subscriptions/sub"
    subscriber.create_subscription(name=name, topic=topic)
    publisher.publish(topic=topic, messages=[{"data": b"kept"}])
    publisher.delete_topic(topic=topic)
    assert subscriber.get_subscription(subscription=name).topic == "_deleted-topic_"
    [received] = subscriber.pull(subscription=name, max_messages=5).received_messages
    assert received.message.data == b"kept"
