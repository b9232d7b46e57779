"""Starting, stopping, killing and restarting the embedded emulators."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import pytest
from google.cloud import firestore, secretmanager
from google.cloud.secretmanager_v1.services.secret_manager_service import transports
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from tests.dev.emulators.receiver import Receiver

import cab_dev
from cab_dev.processes.ports import PortLeases
from gcp_emulators import EmulatorFailed, Emulators, running
from gcp_emulators.embedded import in_background
from gcp_emulators.processes import EmbeddedProcess

SOURCE_ROOT = Path(cab_dev.__file__).parents[1]
TOPIC = "projects/demo-cab/topics/cab-audit"
SUBSCRIPTION = "projects/demo-cab/subscriptions/ingest-audit"


def firestore_client(emulators: Emulators, monkeypatch: pytest.MonkeyPatch) -> firestore.Client:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulators.address("firestore"))
    return firestore.Client(project="demo-cab", database="grants")


def test_documents_and_their_versions_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(services=["firestore"], data_dir=tmp_path) as emulators:
        db = firestore_client(emulators, monkeypatch)
        version = db.document("grants/g1").set({"n": 1}).update_time
        emulators.process("firestore").kill()
        emulators.process("firestore").start()
        option = db.write_option(last_update_time=version)
        later = db.document("grants/g1").update({"n": 2}, option=option).update_time
        assert later > version
        db.close()


def test_without_a_data_folder_a_restart_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(services=["firestore"]) as emulators:
        db = firestore_client(emulators, monkeypatch)
        db.document("grants/g1").set({"n": 1})
        emulators.process("firestore").stop()
        emulators.process("firestore").start()
        assert not db.document("grants/g1").get().exists
        db.close()


def test_one_service_is_killed_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(services=["firestore", "pubsub"], separately=True) as emulators:
        emulators.process("pubsub").kill()
        db = firestore_client(emulators, monkeypatch)
        db.document("grants/g1").set({"n": 1})
        assert db.document("grants/g1").get().exists
        assert not emulators.process("pubsub").is_running()
        db.close()


def test_undelivered_messages_are_pushed_after_a_kill(tmp_path: Path, receiver: Receiver) -> None:
    receiver.then = 503
    with running(services=["pubsub"], data_dir=tmp_path) as emulators:
        with grpc.insecure_channel(emulators.address("pubsub")) as channel:
            publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
            subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
            publisher.create_topic(name=TOPIC)
            subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC, push_config={"push_endpoint": receiver.url})
            published = publisher.publish(topic=TOPIC, messages=[{"data": b"one"}]).message_ids[0]
        receiver.wait_for(1)
        emulators.process("pubsub").kill()
        receiver.then = 204
        seen = len(receiver.pushes)
        emulators.process("pubsub").start()
        assert receiver.wait_for(seen + 1)[-1].body["message"]["messageId"] == published


def test_leases_of_pulled_messages_survive_a_kill(tmp_path: Path) -> None:
    with running(services=["pubsub"], data_dir=tmp_path) as emulators:
        with grpc.insecure_channel(emulators.address("pubsub")) as channel:
            publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
            subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
            publisher.create_topic(name=TOPIC)
            subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC)
            publisher.publish(topic=TOPIC, messages=[{"data": b"one"}])
            [received] = subscriber.pull(subscription=SUBSCRIPTION, max_messages=5).received_messages
        emulators.process("pubsub").kill()
        emulators.process("pubsub").start()
        with grpc.insecure_channel(emulators.address("pubsub")) as channel:
            subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
            subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[received.ack_id])
            left = subscriber.pull(subscription=SUBSCRIPTION, max_messages=5, timeout=0.5).received_messages
        assert list(left) == []


def test_secrets_survive_a_kill(tmp_path: Path) -> None:
    with running(services=["secret_manager"], data_dir=tmp_path) as emulators:
        for expected in (b"1", b"2"):
            with grpc.insecure_channel(emulators.address("secret_manager")) as channel:
                client = secretmanager.SecretManagerServiceClient(
                    transport=transports.SecretManagerServiceGrpcTransport(channel=channel)
                )
                if expected == b"1":
                    client.create_secret(
                        parent="projects/demo-cab", secret_id="s", secret={"replication": {"automatic": {}}}
                    )
                added = client.add_secret_version(parent="projects/demo-cab/secrets/s", payload={"data": expected})
                assert added.name.endswith(f"/versions/{expected.decode()}")
                assert client.access_secret_version(name=added.name).payload.data == expected
            emulators.process("secret_manager").kill()
            emulators.process("secret_manager").start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_while_clients_wait(number: signal.Signals) -> None:
    with PortLeases() as ports:
        process = EmbeddedProcess({name: ports.take_free() for name in ("pubsub", "control")})
        process.start()
        with grpc.insecure_channel(process.address("pubsub")) as channel:
            publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
            subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
            publisher.create_topic(name=TOPIC)
            subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC)
            waiting = channel.unary_unary(
                "/google.pubsub.v1.Subscriber/Pull", request_serializer=lambda b: b, response_deserializer=bytes
            ).future(b"\x0a" + bytes([len(SUBSCRIPTION)]) + SUBSCRIPTION.encode() + b"\x18\x01")
            pid = process.pid
            os.kill(pid, number)
            assert process.wait() == 0
            assert waiting.exception(timeout=5) is not None  # type: ignore[call-arg]
        assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("option", ["--secret-manager-port", "--control-port"])
def test_a_taken_port_is_one_clear_sentence(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run_emulators("--pubsub-port", "0", "--firestore-port", "0", option, port)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"The emulators cannot start: port {port} on 127.0.0.1 is taken\n"


def test_a_process_without_any_service_is_refused() -> None:
    ended = run_emulators()
    assert ended.returncode == 2
    assert "give the port of at least one service" in ended.stderr


async def test_the_emulators_end_when_their_background_work_has_failed() -> None:
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        async with in_background(fail()):
            await asyncio.Event().wait()


async def test_background_work_ends_with_its_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with in_background(work()):
        await asyncio.sleep(0)
    assert ended.is_set()


def test_a_process_that_cannot_start_is_reported(tmp_path: Path) -> None:
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    with pytest.raises(EmulatorFailed), running(services=["firestore"], data_dir=not_a_folder):
        pass


def run_emulators(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gcp_emulators", *options]
    # Google's libraries say on standard error when this Python nears its end: not what is asked about here.
    environment = os.environ | {"PYTHONPATH": str(SOURCE_ROOT), "PYTHONWARNINGS": "ignore::FutureWarning"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_no_emulator_outlives_a_test_run_that_was_killed() -> None:
    program = """
import signal
from gcp_emulators import running
with running(services=["secret_manager"]) as emulators:
    print(emulators.process("secret_manager").pid, flush=True)
    signal.pause()
"""
    environment = os.environ | {"PYTHONPATH": str(SOURCE_ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        emulator = psutil.Process(int(run.stdout.readline()))
        run.kill()
    psutil.wait_procs([emulator], timeout=15)
    assert not emulator.is_running()
