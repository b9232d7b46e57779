"""Faults and the call log of the embedded emulators, seen through Google's own clients."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.api_core.exceptions import FailedPrecondition, GoogleAPICallError, NotFound
from google.cloud import secretmanager
from google.cloud.firestore import Client, Increment
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from tests.dev.emulators.receiver import Receiver

from gcp_emulators import Emulators
from gcp_emulators.control_client import ControlClient, ControlRefused
from gcp_emulators.faults import CallFault, FaultBook, PushFault, StaleFault


@pytest.fixture
def control(embedded: Emulators) -> Iterator[ControlClient]:
    control = embedded.control("firestore")
    yield control
    control.clear_faults()


@pytest.fixture
def db(embedded: Emulators, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", embedded.address("firestore"))
    client = Client(project=project, database="guards")
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


@pytest.fixture
def pushing(publisher: PublisherClient, subscriber: SubscriberClient, project: str, receiver: Receiver) -> str:
    """A topic whose messages are pushed to the receiver."""
    topic = str(publisher.create_topic(name=f"projects/{project}/topics/cab-audit").name)
    name = f"projects/{project}/subscriptions/ingest-audit"
    subscriber.create_subscription(name=name, topic=topic, push_config={"push_endpoint": receiver.url})
    return topic


# Calls that fail


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("UNAVAILABLE", exceptions.ServiceUnavailable),
        ("ABORTED", exceptions.Aborted),
        ("DEADLINE_EXCEEDED", exceptions.DeadlineExceeded),
        ("PERMISSION_DENIED", exceptions.PermissionDenied),
        ("RESOURCE_EXHAUSTED", exceptions.ResourceExhausted),
    ],
)
def test_a_call_fails_with_the_status_of_the_rule_and_does_nothing(
    db: Client, control: ControlClient, status: Any, error: type[Exception]
) -> None:
    control.add_fault(CallFault(service="firestore", method="Commit", resource="guards/g1", status=status))
    with pytest.raises(error):
        db.document("guards/g1").set({"n": 1}, retry=None)
    control.clear_faults()
    assert not db.document("guards/g1").get().exists


def test_only_the_first_calls_fail_when_a_rule_says_how_many(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="firestore", method="Commit", status="ABORTED", times=2))
    outcomes = [succeeds(db, f"guards/g{number}") for number in range(4)]
    assert outcomes == [False, False, True, True]


def test_a_rule_can_skip_the_first_calls(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="firestore", method="Commit", status="ABORTED", skip=2, times=1))
    assert [succeeds(db, f"guards/g{number}") for number in range(4)] == [True, True, False, True]


def test_a_rule_strikes_its_method_and_resource_only(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="firestore", method="Commit", resource="/limits/", status="ABORTED"))
    assert succeeds(db, "guards/g1")
    assert not succeeds(db, "limits/l1")
    assert not db.document("limits/l1").get().exists


def test_a_rule_of_another_service_strikes_nothing_here(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="pubsub", status="UNAVAILABLE"))
    assert succeeds(db, "guards/g1")


def test_a_removed_rule_no_longer_strikes(db: Client, control: ControlClient) -> None:
    fault_id = control.add_fault(CallFault(service="firestore", status="ABORTED"))
    control.remove_fault(fault_id)
    assert succeeds(db, "guards/g1")
    with pytest.raises(ControlRefused):
        control.remove_fault(fault_id)


def test_a_lost_answer_leaves_the_write_applied(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="firestore", method="Commit", status="UNAVAILABLE", when="after", times=1))
    with pytest.raises(exceptions.ServiceUnavailable):
        db.document("limits/l1").set({"n": Increment(1)}, merge=True, retry=None)
    assert db.document("limits/l1").get().to_dict() == {"n": 1}


def test_a_lost_answer_of_a_new_secret_version_still_uses_up_its_number(
    secrets: secretmanager.SecretManagerServiceClient, control: ControlClient, project: str
) -> None:
    secret = create_secret(secrets, project)
    control.add_fault(
        CallFault(
            service="secret_manager", method="AddSecretVersion", status="DEADLINE_EXCEEDED", when="after", times=1
        )
    )
    with pytest.raises(exceptions.DeadlineExceeded):
        secrets.add_secret_version(parent=secret, payload={"data": b"lost"})
    assert secrets.add_secret_version(parent=secret, payload={"data": b"x"}).name.endswith("/versions/2")
    assert secrets.access_secret_version(name=f"{secret}/versions/1").payload.data == b"lost"


def test_a_lost_publish_answer_leaves_the_message_published(
    publisher: PublisherClient, control: ControlClient, pushing: str, receiver: Receiver
) -> None:
    control.add_fault(CallFault(service="pubsub", method="Publish", status="UNAVAILABLE", when="after", times=1))
    with pytest.raises(exceptions.ServiceUnavailable):
        publisher.publish(topic=pushing, messages=[{"data": b"event"}], retry=None)
    receiver.wait_for(1)


def test_latency_delays_the_answer(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="firestore", method="BatchGetDocuments", latency_s=0.3, times=1))
    started = time.monotonic()
    db.document("guards/g1").get()
    assert time.monotonic() - started >= 0.3


def test_a_slow_call_does_not_hold_up_others(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="firestore", resource="guards/slow", latency_s=2.0, times=1))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(db.document("guards/slow").get)
        wait_for_call(control, db.project, "BatchGetDocuments")
        db.document("guards/quick").get()
        assert not slow.done()


def test_a_call_that_hangs_past_the_deadline_before_its_work_does_nothing(
    db: Client, control: ControlClient, project: str
) -> None:
    control.add_fault(CallFault(service="firestore", method="Commit", latency_s=30, times=1))
    with pytest.raises(exceptions.DeadlineExceeded):
        db.document("guards/g1").set({"n": 1}, retry=None, timeout=0.2)
    assert not db.document("guards/g1").get().exists
    assert [call["status"] for call in control.calls(project) if call["method"] == "Commit"] == ["CANCELLED"]


def test_a_probability_with_a_seed_repeats_its_faults() -> None:
    def struck(seed: int) -> list[bool]:
        book = FaultBook()
        book.add(CallFault(service="firestore", status="ABORTED", probability=0.5, seed=seed))
        return [book.for_call("firestore", "Commit", ()) is not None for _ in range(200)]

    assert struck(7) == struck(7)
    assert struck(7) != struck(8)
    assert 70 < sum(struck(7)) < 130


def test_the_first_rule_that_fires_decides() -> None:
    book = FaultBook()
    book.add(CallFault(service="firestore", status="ABORTED", times=1))
    book.add(CallFault(service="firestore", status="UNAVAILABLE"))
    struck = [book.for_call("firestore", "Commit", ()) for _ in range(2)]
    assert [fault and fault.status for fault in struck] == ["ABORTED", "UNAVAILABLE"]


# Permissions


def test_a_denied_method_is_missing_from_the_permissions(
    secrets: secretmanager.SecretManagerServiceClient, control: ControlClient, project: str
) -> None:
    secret = create_secret(secrets, project)
    control.add_fault(
        CallFault(service="secret_manager", method="AddSecretVersion", resource=project, status="PERMISSION_DENIED")
    )
    wanted = ["secretmanager.versions.add", "secretmanager.versions.access"]
    answer = secrets.test_iam_permissions(request={"resource": secret, "permissions": wanted})
    assert list(answer.permissions) == ["secretmanager.versions.access"]
    with pytest.raises(exceptions.PermissionDenied):
        secrets.add_secret_version(parent=secret, payload={"data": b"x"})


# Pushes


def test_a_duplicated_push_delivers_the_same_message_several_times(
    publisher: PublisherClient, control: ControlClient, pushing: str, receiver: Receiver
) -> None:
    control.add_fault(PushFault(resource="ingest-audit", duplicates=2, times=1))
    [first] = publisher.publish(topic=pushing, messages=[{"data": b"event"}]).message_ids
    [second] = publisher.publish(topic=pushing, messages=[{"data": b"event"}]).message_ids
    pushes = receiver.wait_for(4)
    assert sorted(push.body["message"]["messageId"] for push in pushes) == sorted([first] * 3 + [second])


def test_a_late_push_comes_after_later_messages(
    publisher: PublisherClient, control: ControlClient, pushing: str, receiver: Receiver
) -> None:
    control.add_fault(PushFault(delay_s=1.5, times=1))
    [late] = publisher.publish(topic=pushing, messages=[{"data": b"late"}]).message_ids
    wait_until_fired(control)
    [quick] = publisher.publish(topic=pushing, messages=[{"data": b"quick"}]).message_ids
    assert [push.body["message"]["messageId"] for push in receiver.wait_for(2)] == [quick, late]


# Staleness


def test_latest_still_names_the_previous_version_while_stale(
    secrets: secretmanager.SecretManagerServiceClient, control: ControlClient, project: str
) -> None:
    secret = create_secret(secrets, project)
    secrets.add_secret_version(parent=secret, payload={"data": b"one"})
    control.add_fault(StaleFault(resource=project, for_s=60, what=frozenset({"latest"})))
    with pytest.raises(NotFound):
        read(secrets, secret, "latest")
    assert read(secrets, secret, "1") == b"one"


def test_staleness_passes_after_its_time(
    secrets: secretmanager.SecretManagerServiceClient, control: ControlClient, project: str
) -> None:
    secret = create_secret(secrets, project)
    control.add_fault(StaleFault(resource=project, for_s=1.5))
    version = secrets.add_secret_version(parent=secret, payload={"data": b"one"})
    assert list(secrets.list_secret_versions(parent=secret)) == []
    wait_until(lambda: len(list(secrets.list_secret_versions(parent=secret))) == 1)
    assert read(secrets, secret, "latest") == b"one"
    secrets.destroy_secret_version(name=version.name)
    assert read(secrets, secret, "1") == b"one"
    wait_until(lambda: not can_read(secrets, secret, "1"))


def test_a_disabled_and_a_destroyed_version_are_still_served_while_stale(
    secrets: secretmanager.SecretManagerServiceClient, control: ControlClient, project: str
) -> None:
    secret = create_secret(secrets, project)
    for payload in (b"one", b"two"):
        secrets.add_secret_version(parent=secret, payload={"data": payload})
    control.add_fault(StaleFault(resource=secret.rpartition("/")[2], for_s=60))
    secrets.disable_secret_version(name=f"{secret}/versions/1")
    secrets.destroy_secret_version(name=f"{secret}/versions/2")
    assert [read(secrets, secret, "1"), read(secrets, secret, "2")] == [b"one", b"two"]
    assert secrets.get_secret_version(name=f"{secret}/versions/2").state.name == "ENABLED"
    control.clear_faults()
    for version in ("1", "2"):
        with pytest.raises(FailedPrecondition):
            read(secrets, secret, version)


# The call log


def test_calls_are_counted_exactly_per_project(
    db: Client, publisher: PublisherClient, control: ControlClient, project: str
) -> None:
    db.document("guards/g1").create({"n": 1})
    db.document("guards/g1").get()
    publisher.create_topic(name=f"projects/{project}/topics/cab-audit")
    publisher.publish(topic=f"projects/{project}/topics/cab-audit", messages=[{"data": b"event"}])
    assert control.counts(project) == {
        "firestore.Commit": 1,
        "firestore.BatchGetDocuments": 1,
        "pubsub.CreateTopic": 1,
        "pubsub.Publish": 1,
    }
    assert control.counts("another-project") == {}


def test_a_clients_own_retries_and_refused_calls_count(db: Client, control: ControlClient, project: str) -> None:
    control.add_fault(CallFault(service="firestore", method="BatchGetDocuments", status="UNAVAILABLE", times=2))
    db.document("guards/g1").get()
    assert control.counts(project) == {"firestore.BatchGetDocuments": 3}
    assert [call["status"] for call in control.calls(project)] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]


def test_the_log_says_which_resources_a_call_touched(db: Client, control: ControlClient, project: str) -> None:
    before = time.perf_counter()
    db.document("guards/g1").create({"n": 1})
    root = f"projects/{project}/databases/guards"
    (call,) = control.calls(project)
    assert before < (came_at := call.pop("came_at")) < came_at + call.pop("took_s") < time.perf_counter()
    assert call == {
        "service": "firestore",
        "method": "Commit",
        "project": project,
        "resources": [root, f"{root}/documents/guards/g1"],
        "status": "OK",
        "deletes": 0,
        "makes": 1,
    }


def test_the_log_says_how_long_a_call_took_with_what_a_fault_made_of_it(
    db: Client, control: ControlClient, project: str
) -> None:
    control.add_fault(
        CallFault(service="firestore", method="BatchGetDocuments", latency_s=0.2, resource=project, times=1)
    )
    db.document("guards/g1").get()
    db.document("guards/g1").get()
    late, soon = (call["took_s"] for call in control.calls(project))
    assert late >= 0.2 > soon


def test_secret_manager_calls_by_project_number_count_for_the_project(
    secrets: secretmanager.SecretManagerServiceClient, control: ControlClient, project: str
) -> None:
    secret = create_secret(secrets, project)
    assert project not in secret
    secrets.get_secret(name=secret)
    assert control.counts(project) == {"secret_manager.CreateSecret": 1, "secret_manager.GetSecret": 1}


def test_clearing_the_calls_of_a_project_leaves_the_others(
    db: Client, publisher: PublisherClient, control: ControlClient, project: str
) -> None:
    db.document("guards/g1").get()
    publisher.create_topic(name=f"projects/{project}-2/topics/cab-audit")
    control.clear_calls(project)
    assert control.counts(project) == {}
    assert control.calls(project) == []
    assert control.counts(f"{project}-2") == {"pubsub.CreateTopic": 1}


def test_deleting_a_project_removes_its_data_and_calls_only(
    db: Client,
    publisher: PublisherClient,
    secrets: secretmanager.SecretManagerServiceClient,
    control: ControlClient,
    project: str,
) -> None:
    db.document("guards/g1").create({"n": 1})
    for name in (project, f"{project}-2"):
        publisher.create_topic(name=f"projects/{name}/topics/cab-audit")
    secret = create_secret(secrets, project)
    control.delete_project(project)
    assert control.counts(project) == {}
    assert not db.document("guards/g1").get().exists
    assert list(publisher.list_topics(project=f"projects/{project}")) == []
    assert len(list(publisher.list_topics(project=f"projects/{project}-2"))) == 1
    with pytest.raises(NotFound):
        secrets.get_secret(name=secret)


# The control endpoint


def test_a_rule_that_makes_no_sense_is_refused_with_the_reason(embedded: Emulators) -> None:
    rule = '{"kind":"call","service":"firestore","statsu":"ABORTED"}'
    status, body = request(embedded, "POST", "/faults", rule)
    assert status == 400
    assert b"statsu" in body


def test_a_rule_needs_the_json_media_type(embedded: Emulators) -> None:
    body = '{"kind":"call","service":"firestore","status":"ABORTED"}'
    assert request(embedded, "POST", "/faults", body, {"Content-Type": "text/plain"})[0] == 415


def test_a_request_that_names_another_host_is_refused(embedded: Emulators) -> None:
    assert request(embedded, "GET", "/calls", headers={"Host": "attacker.example"})[0] == 403


def test_health_names_the_services(embedded: Emulators) -> None:
    status, body = request(embedded, "GET", "/health")
    assert status == 200
    assert embedded.address("pubsub").encode() in body


def test_rules_are_listed_with_how_often_they_matched_and_fired(db: Client, control: ControlClient) -> None:
    control.add_fault(CallFault(service="firestore", method="Commit", status="ABORTED", times=1))
    for _ in range(3):
        succeeds(db, "guards/g1")
    [fault] = control.faults()
    assert (fault["matched"], fault["fired"], fault["rule"]["status"]) == (3, 1, "ABORTED")


def request(
    embedded: Emulators, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(embedded.process("firestore").address("control"), timeout=5)
    with closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
        response = connection.getresponse()
        return response.status, response.read()


def succeeds(db: Client, path: str) -> bool:
    try:
        db.document(path).set({"n": 1}, retry=None)
    except GoogleAPICallError:
        return False
    return True


def create_secret(secrets: secretmanager.SecretManagerServiceClient, project: str) -> str:
    secret = secrets.create_secret(
        parent=f"projects/{project}",
        secret_id=f"grant-{project[-6:]}",
        secret={"replication": {"automatic": {}}},
    )
    return str(secret.name)


def read(secrets: secretmanager.SecretManagerServiceClient, secret: str, version: str) -> bytes:
    name = f"{secret}/versions/{version}"
    return bytes(secrets.access_secret_version(name=name, retry=None).payload.data)


def can_read(secrets: secretmanager.SecretManagerServiceClient, secret: str, version: str) -> bool:
    try:
        read(secrets, secret, version)
    except FailedPrecondition:
        return False
    return True


def wait_until(condition: Any) -> None:
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at


def wait_until_fired(control: ControlClient) -> None:
    wait_until(lambda: control.faults()[0]["fired"] == 1)


def wait_for_call(control: ControlClient, project: str, method: str) -> None:
    wait_until(lambda: control.counts(project).get(f"firestore.{method}"))
