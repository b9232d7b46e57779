"""REST and gRPC are two ways to the same data, on the embedded and on the official emulators alike, on one port."""

from __future__ import annotations

import http.client
import json
import math
from datetime import UTC, datetime
from typing import Any

import google_crc32c
import grpc
import pytest
from google.api_core.exceptions import BadRequest, FailedPrecondition, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceRestTransport
from google.iam.v1 import policy_pb2
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport, PublisherRestTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from gcp_emulators import Emulators

NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
PYTHON: dict[str, Any] = {
    "none": None,
    "true": True,
    "int": 2**63 - 1,
    "negative": -(2**63),
    "whole": 3.0,
    "float": 0.1,
    "infinite": math.inf,
    "text": 'a"\\ \n\u2028ü😀',
    "bytes": b"\x00\xff\xfe",
    "instant": NOON,
    "list": [1, "a", {"b": []}],
    "map": {"in": {"side": {}}},
}
WRITTEN: dict[str, Any] = {
    "none": {"nullValue": None},
    "true": {"booleanValue": True},
    "int": {"integerValue": "9223372036854775807"},
    "negative": {"integerValue": "-9223372036854775808"},
    "whole": {"doubleValue": 3.0},
    "float": {"doubleValue": 0.1},
    "infinite": {"doubleValue": "Infinity"},
    "text": {"stringValue": 'a"\\ \n\u2028ü😀'},
    "bytes": {"bytesValue": "AP/+"},
    "instant": {"timestampValue": "2026-11-21T12:00:00.123456Z"},
    "list": {
        "arrayValue": {
            "values": [
                {"integerValue": "1"},
                {"stringValue": "a"},
                {"mapValue": {"fields": {"b": {"arrayValue": {}}}}},
            ]
        }
    },
    "map": {"mapValue": {"fields": {"in": {"mapValue": {"fields": {"side": {"mapValue": {}}}}}}}},
}


def ask(address: str, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of one call."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(verb, f"/v1/{path}", sent, {"content-type": "application/json"} | headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if "json" in answer.headers.get("content-type", "") else None
    finally:
        connection.close()


class Store:
    """One database, over REST and through Google's client."""

    def __init__(self, address: str, project: str) -> None:
        self.address = address
        self.documents = f"projects/{project}/databases/guards/documents"
        self.client = firestore.Client(project=project, database="guards", credentials=AnonymousCredentials())

    def name(self, path: str) -> str:
        return f"{self.documents}/{path}"

    def post(self, method: str, body: Any) -> tuple[int, Any]:
        return ask(self.address, "POST", f"{self.documents}:{method}", body)

    def commit(self, *writes: Any) -> tuple[int, Any]:
        return self.post("commit", {"writes": writes})

    def get(self, *paths: str) -> list[Any]:
        status, parts = self.post("batchGet", {"documents": [self.name(path) for path in paths]})
        assert status == 200
        return list(parts)

    def set(self, path: str, fields: Any, **more: Any) -> tuple[int, Any]:
        return self.commit({"update": {"name": self.name(path), "fields": fields}, **more})


@pytest.fixture
def store(emulators: Emulators, project: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulators.address("firestore"))
    store = Store(emulators.address("firestore"), project)
    yield store
    store.client.close()


def plain(value: Any) -> Any:
    """Without what one of the emulators writes and the other leaves out: an empty list, an empty map."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in {"values", "fields"} or inner}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_what_one_way_wrote_the_other_reads(store: Store) -> None:
    store.client.document("things/grpc").set(PYTHON)
    (found,) = store.get("things/grpc")
    assert found["found"]["name"] == store.name("things/grpc")
    assert plain(found["found"]["fields"]) == WRITTEN
    assert store.set("things/rest", WRITTEN)[0] == 200
    assert store.client.document("things/rest").get().to_dict() == PYTHON


def test_a_number_that_is_none_is_a_word(store: Store) -> None:
    assert store.set("things/nan", {"x": {"doubleValue": "NaN"}})[0] == 200
    assert math.isnan(store.client.document("things/nan").get().get("x"))
    assert store.get("things/nan")[0]["found"]["fields"] == {"x": {"doubleValue": "NaN"}}


def test_a_version_is_the_same_to_the_nanosecond_either_way(store: Store) -> None:
    document = store.client.document("things/a")
    status, written = store.set("things/a", {"n": {"integerValue": "1"}}, currentDocument={"exists": False})
    assert status == 200
    (version,) = [result["updateTime"] for result in written["writeResults"]]
    assert store.get("things/a")[0]["found"]["updateTime"] == version
    snapshot = document.get()
    document.update({"n": 2}, option=store.client.write_option(last_update_time=snapshot.update_time))
    status, refused = store.set("things/a", {}, currentDocument={"updateTime": version})
    assert (status, refused["error"]["status"]) == (400, "FAILED_PRECONDITION")
    version = store.get("things/a")[0]["found"]["updateTime"]
    assert store.set("things/a", {}, currentDocument={"updateTime": version})[0] == 200
    with pytest.raises(FailedPrecondition):
        document.update({"n": 3}, option=store.client.write_option(last_update_time=snapshot.update_time))


def test_what_is_missing_is_said_so_among_what_is_found(store: Store) -> None:
    store.client.document("things/a b:%?ü").set({"n": 1})
    parts = store.get("things/a b:%?ü", "things/none")
    assert {part["found"]["name"] for part in parts if "found" in part} == {store.name("things/a b:%?ü")}
    assert {part["missing"] for part in parts if "missing" in part} == {store.name("things/none")}
    assert all(part["readTime"].endswith("Z") for part in parts)


def test_a_query_is_answered_with_a_list_that_tells_the_time_even_when_nothing_is_found(store: Store) -> None:
    for number in range(3):
        store.client.document(f"things/{number}").set({"n": number})
    query = {
        "from": [{"collectionId": "things"}],
        "where": {
            "compositeFilter": {
                "op": "AND",
                "filters": [
                    {"fieldFilter": {"field": {"fieldPath": "n"}, "op": "LESS_THAN", "value": {"integerValue": "9"}}}
                ],
            }
        },
        "orderBy": [
            {"field": {"fieldPath": "n"}, "direction": "DESCENDING"},
            {"field": {"fieldPath": "__name__"}, "direction": "DESCENDING"},
        ],
        "startAt": {
            "before": False,
            "values": [{"integerValue": "2"}, {"referenceValue": store.name("things/2")}],
        },
        "limit": 10,
    }
    status, parts = store.post("runQuery", {"structuredQuery": query})
    assert status == 200
    found = [part["document"]["name"].rpartition("/")[2] for part in parts if "document" in part]
    assert found == ["1", "0"]
    status, parts = store.post("runQuery", {"structuredQuery": {"from": [{"collectionId": "nothing"}], "limit": 1}})
    assert status == 200
    assert [part.keys() & {"document", "readTime"} for part in parts] == [{"readTime"}]


def test_a_tally_tells_its_numbers_as_text_and_keeps_the_other_fields(store: Store) -> None:
    store.client.document("things/a").set({"kept": True, "n": 40})
    transforms = [
        {"fieldPath": "n", "increment": {"integerValue": "2"}},
        {"fieldPath": "`m-n`", "minimum": {"integerValue": "7"}},
    ]
    write = {"update": {"name": store.name("things/a")}, "updateMask": {}, "updateTransforms": transforms}
    status, answer = store.commit(write)
    assert status == 200
    (result,) = answer["writeResults"]
    assert result["transformResults"] == [{"integerValue": "42"}, {"integerValue": "7"}]
    assert store.client.document("things/a").get().to_dict() == {"kept": True, "n": 42, "m-n": 7}


def test_a_refusal_has_a_word_that_its_number_does_not_tell(store: Store) -> None:
    store.client.document("things/a").set({})
    refusals = {
        "ALREADY_EXISTS": store.set("things/a", {}, currentDocument={"exists": False}),
        "NOT_FOUND": store.set("things/none", {}, currentDocument={"exists": True}),
        "INVALID_ARGUMENT": store.commit({"update": {"name": "no name"}}),
    }
    assert {word: (status, answer["error"]["status"]) for word, (status, answer) in refusals.items()} == {
        "ALREADY_EXISTS": (409, "ALREADY_EXISTS"),
        "NOT_FOUND": (404, "NOT_FOUND"),
        "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT"),
    }


def test_a_refused_write_takes_the_others_of_its_commit_along(store: Store) -> None:
    store.client.document("things/a").set({})
    new = {"update": {"name": store.name("things/b"), "fields": {}}}
    old = {"update": {"name": store.name("things/a"), "fields": {}}, "currentDocument": {"exists": False}}
    assert store.commit(new, old)[0] == 409
    assert "missing" in store.get("things/b")[0]


def test_a_delete_is_a_write_like_any_other(store: Store) -> None:
    store.client.document("things/a").set({})
    version = store.get("things/a")[0]["found"]["updateTime"]
    status, answer = store.commit({"delete": store.name("things/a"), "currentDocument": {"updateTime": version}})
    assert status == 200
    assert len(answer["writeResults"]) == 1
    assert not store.client.document("things/a").get().exists


@pytest.mark.parametrize("body", [b"{", b'{"writes": 7}', b'{"writes": [{"update": 7}]}'])
def test_what_is_no_request_is_an_invalid_argument(store: Store, body: bytes) -> None:
    assert store.post("commit", body)[0] == 400


def test_messages_go_in_one_way_and_come_out_the_other(emulators: Emulators, project: str) -> None:
    address = emulators.address("pubsub")
    topic, subscription = f"projects/{project}/topics/topic", f"projects/{project}/subscriptions/subscription"
    channel = grpc.insecure_channel(address)
    publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
    subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
    assert ask(address, "PUT", topic, {}) == (200, {"name": topic})
    assert ask(address, "PUT", subscription, {"topic": topic, "expirationPolicy": {}})[0] == 200
    sent = {"data": "AP/+", "attributes": {"event_id": "e1"}}
    status, answer = ask(address, "POST", f"{topic}:publish", {"messages": [sent, {"data": "YQ=="}]})
    assert status == 200
    assert len(answer["messageIds"]) == 2
    pulled = subscriber.pull(subscription=subscription, max_messages=10, timeout=10)
    messages = {bytes(it.message.data): dict(it.message.attributes) for it in pulled.received_messages}
    assert messages.get(b"\x00\xff\xfe", {"event_id": "e1"}) == {"event_id": "e1"}
    subscriber.acknowledge(subscription=subscription, ack_ids=[it.ack_id for it in pulled.received_messages])
    publisher.publish(topic=topic, messages=[{"data": b"\xfe", "attributes": {"a": "b"}}])
    status, answer = ask(address, "POST", f"{subscription}:pull", {"maxMessages": 10})
    received = [it for it in answer["receivedMessages"] if it["message"]["data"] == "/g=="]
    assert [it["message"]["attributes"] for it in received] == [{"a": "b"}]
    back = {"ackIds": [it["ackId"] for it in answer["receivedMessages"]], "ackDeadlineSeconds": 0}
    assert ask(address, "POST", f"{subscription}:modifyAckDeadline", back)[0] == 200
    seen = ask(address, "GET", subscription)[1]
    assert (seen["topic"], seen.get("expirationPolicy", {})) == (topic, {})
    channel.close()


def test_publishing_to_no_topic_is_not_found(emulators: Emulators, project: str) -> None:
    topic = f"projects/{project}/topics/none"
    status, answer = ask(emulators.address("pubsub"), "POST", f"{topic}:publish", {"messages": [{"data": "YQ=="}]})
    assert (status, answer["error"]["status"]) == (404, "NOT_FOUND")


def test_googles_own_clients_work_over_rest(emulators: Emulators, embedded: Emulators, project: str) -> None:
    address = emulators.address("pubsub")
    transport = PublisherRestTransport(host=address, url_scheme="http", credentials=AnonymousCredentials())
    publisher = PublisherClient(transport=transport)
    topic = publisher.create_topic(name=f"projects/{project}/topics/topic").name
    assert len(publisher.publish(topic=topic, messages=[{"data": b"a"}]).message_ids) == 1
    publisher.delete_topic(topic=topic)
    with pytest.raises(NotFound):
        publisher.get_topic(topic=topic)
    vault = SecretManagerServiceClient(
        transport=SecretManagerServiceRestTransport(
            host=embedded.address("secret_manager"),
            url_scheme="http",
            credentials=AnonymousCredentials(),
        )
    )
    parent = f"projects/{project}"
    secret = vault.create_secret(parent=parent, secret_id="s", secret={"replication": {"automatic": {}}}).name
    version = vault.add_secret_version(parent=secret, payload={"data": b"\x00\xff"}).name
    opened = vault.access_secret_version(name=version)
    assert (opened.payload.data, opened.payload.data_crc32c) == (b"\x00\xff", google_crc32c.value(b"\x00\xff"))
    policy = policy_pb2.Policy(bindings=[policy_pb2.Binding(role="roles/viewer", members=["user:a@b.c"])])
    vault.set_iam_policy(request={"resource": secret, "policy": policy})
    assert vault.get_iam_policy(request={"resource": secret}).bindings[0].members == ["user:a@b.c"]
    vault.update_secret(secret={"name": secret, "labels": {"a": "b"}}, update_mask={"paths": ["labels"]})
    assert [dict(it.labels) for it in vault.list_secrets(parent=parent)] == [{"a": "b"}]
    vault.destroy_secret_version(name=version)
    with pytest.raises(BadRequest, match="DESTROYED"):
        vault.access_secret_version(name=version)
