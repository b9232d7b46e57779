"""`cab doctor` on a running stack: silent when all is well, and one line with the remedy for each of many planted faults."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from click.testing import CliRunner
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from tests.running_stack import ROOT, Stack, running_stack

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.http.client import AiohttpClient
from cab.adapters.system import SystemClock
from cab.ports import Delete, HttpAnswer, Replace, Unavailable, Write
from cab.stores.signing_keys import Issuer, KeyState, SigningKeys
from cab_dev.stack_file import DOCTOR_ENVIRONMENT_NAME, read_environment
from cab_ops.check_connection import Holds
from cab_ops.cli import main
from cab_ops.doctor import exercise
from cab_ops.doctor.diagnosis import Diagnosis
from cab_ops.doctor.examination import PARTS, Examination
from cab_ops.doctor.exercise import Probe, ProbeIntent, UnreadableProbe, read_probe
from cab_ops.doctor.expected import DATABASES, member
from cab_ops.doctor.outside import lifetime
from cab_ops.doctor.project import APIS, CloudFacts

PROJECT = "demo-cab"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
RULE = {"role": "roles/secretmanager.secretAccessor"}


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own: faults of the cloud's side are planted in it."""
    with running_stack(tmp_path_factory.mktemp("patient"), "--emulators", "embedded") as running:
        yield running


@pytest.fixture
def environment(patient: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = read_environment(patient.state_dir)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


class Bed:
    """The stack, and the hands that plant faults in it."""

    def __init__(self, stack: Stack, environment: dict[str, str]) -> None:
        self.stack = stack
        self.folder = Path(environment["CAB_CONFIG_DIR"])
        self.probe: Probe | None = read_probe(Path(environment["CAB_PROBE_FILE"]))
        self.clock: Any = SystemClock()
        self.dataset = "cab_audit"
        secrets = grpc.insecure_channel(environment["SECRET_MANAGER_EMULATOR_HOST"])
        topics = grpc.insecure_channel(environment["PUBSUB_EMULATOR_HOST"])
        self.channels = (secrets, topics)
        self.secrets = SecretManagerServiceClient(transport=SecretManagerServiceGrpcTransport(channel=secrets))
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=topics))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=topics))

    def examine(self, *parts: str) -> list[Diagnosis]:
        deployment = FolderConfiguration(self.folder, os.environ).load()
        examination = Examination(deployment, PROJECT, self.dataset, self.probe, self.clock)
        return asyncio.run(examination(parts or PARTS))

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


@pytest.fixture
def bed(patient: Stack, environment: dict[str, str]) -> Iterator[Bed]:
    opened = Bed(patient, environment)
    yield opened
    opened.close()


# --- faults: each is planted for the length of its block ---


def test_what_answers_at_the_origin_does_not_act_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The domain may lead to anybody."""

    class Elsewhere(AiohttpClient):
        async def _send(self, *_: Any, **__: Any) -> HttpAnswer:
            return HttpAnswer(500, {}, json.dumps({"reason_code": "\x1b[2K\rall is well"}).encode())

    monkeypatch.setattr("cab_ops.doctor.examination.AiohttpClient", Elsewhere)
    for number, name in enumerate(("CAB", "ACME_IDP", "ACME_CRM", "ACME_TRACKER", "ACME_WAREHOUSE"), start=11):
        monkeypatch.setenv(f"{name}_ORIGIN", f"http://127.0.0.1:{number}")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:9")
    command = ["doctor", "--config", str(ROOT / "examples" / "acme"), "--project", "p", "--only", "origin"]
    try:
        told = CliRunner().invoke(main, command).output
    finally:
        logging.disable(logging.NOTSET)  # the command disables it for its process, which is that of all tests here

    assert "[U+001B][2K" in told
    assert "\x1b" not in told


@contextmanager
def stopped(bed: Bed, service: str) -> Iterator[None]:
    bed.stack.stop(service)
    try:
        yield
    finally:
        bed.stack.restart(service)


@contextmanager
def disabled(bed: Bed, secret: str, version: int = 1) -> Iterator[None]:
    name = f"projects/{PROJECT}/secrets/{secret}/versions/{version}"
    bed.secrets.disable_secret_version(name=name)
    try:
        yield
    finally:
        bed.secrets.enable_secret_version(name=name)


@contextmanager
def permitted(bed: Bed, secret: str, members: list[str]) -> Iterator[None]:
    resource = f"projects/{PROJECT}/secrets/{secret}"
    before = bed.secrets.get_iam_policy(request={"resource": resource})
    bed.secrets.set_iam_policy(request={"resource": resource, "policy": {"bindings": [RULE | {"members": members}]}})
    try:
        yield
    finally:
        bed.secrets.set_iam_policy(request={"resource": resource, "policy": before})


@contextmanager
def other_subscription(bed: Bed, name: str, change: Callable[[Any], None] | None) -> Iterator[None]:
    """The subscription made again with a change; None: not at all."""
    full = f"projects/{PROJECT}/subscriptions/{name}"
    before = bed.subscriber.get_subscription(subscription=full)
    bed.subscriber.delete_subscription(subscription=full)
    if change is not None:
        changed = type(before)(before)
        change(changed)
        bed.subscriber.create_subscription(request=changed)
    try:
        yield
    finally:
        if change is not None:
            bed.subscriber.delete_subscription(subscription=full)
        bed.subscriber.create_subscription(request=before)


@contextmanager
def waiting_message(bed: Bed, topic: str, subscription: str) -> Iterator[None]:
    bed.publisher.publish(topic=f"projects/{PROJECT}/topics/{topic}", messages=[{"data": b"left over"}])
    try:
        yield
    finally:
        full = f"projects/{PROJECT}/subscriptions/{subscription}"
        pulled = bed.subscriber.pull(subscription=full, max_messages=10)
        bed.subscriber.acknowledge(subscription=full, ack_ids=[it.ack_id for it in pulled.received_messages])


@contextmanager
def unsent_event(bed: Bed) -> Iterator[None]:
    """One that was kept ten minutes ago, and nobody has published anything since."""

    async def write(change: Write) -> None:
        documents = FirestoreDocuments(PROJECT, "unsent")
        try:
            await documents.write(change)
        finally:
            await documents.close()

    kept_at = datetime.now(UTC) - timedelta(minutes=10)
    fields = {"event_id": "e", "event_type": "t", "chain_id": "c", "seq": 1, "data": b"{}", "kept_at": kept_at}
    asyncio.run(write(Replace("events/c.00000001", fields, version=None)))
    try:
        yield
    finally:
        asyncio.run(write(Delete("events/c.00000001")))


@contextmanager
def no_topic(bed: Bed, topic: str) -> Iterator[None]:
    """A subscription outlives its topic and never gets another one: it is made again."""
    full, kept = f"projects/{PROJECT}/topics/{topic}", f"projects/{PROJECT}/subscriptions/{topic}-keep"
    before = bed.subscriber.get_subscription(subscription=kept)
    bed.publisher.delete_topic(topic=full)
    try:
        yield
    finally:
        bed.publisher.create_topic(name=full)
        bed.subscriber.delete_subscription(subscription=kept)
        bed.subscriber.create_subscription(request=before)


@contextmanager
def no_secret(bed: Bed, secret: str) -> Iterator[None]:
    """A secret that the configuration names and nobody made."""
    with edited(bed, "agents.yaml", "cab-client-ops-bot", "cab-client-nobody-made"):
        yield


@contextmanager
def ring_without_active_key(bed: Bed) -> Iterator[None]:
    async def to(state: KeyState, of: KeyState) -> None:
        documents = FirestoreDocuments(PROJECT, "keys")
        try:
            store = SigningKeys(documents)
            ring = await store.ring(Issuer.STS)
            assert ring is not None
            changed = tuple(replace(key, state=state if key.state is of else key.state) for key in ring.keys)
            assert await store.save(Issuer.STS, changed, read=ring)
        finally:
            await documents.close()

    asyncio.run(to(KeyState.PUBLISHED, KeyState.ACTIVE))
    try:
        yield
    finally:
        asyncio.run(to(KeyState.ACTIVE, KeyState.PUBLISHED))


@contextmanager
def removed_key_that_was_not_destroyed(bed: Bed) -> Iterator[None]:
    async def to(*, is_there: bool) -> None:
        documents = FirestoreDocuments(PROJECT, "keys")
        try:
            store = SigningKeys(documents)
            ring = await store.ring(Issuer.EDGE)
            assert ring is not None
            assert await store.save(Issuer.EDGE, ring.keys, read=ring, removed=ring.keys if is_there else ())
        finally:
            await documents.close()

    asyncio.run(to(is_there=True))
    try:
        yield
    finally:
        asyncio.run(to(is_there=False))


@contextmanager
def edited(bed: Bed, file: str, old: str, new: str) -> Iterator[None]:
    """The folder that the operator has here says something else than what is deployed."""
    before, copy = bed.folder, bed.stack.state_dir / "edited"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(before, copy)
    text = (copy / file).read_text("utf-8")
    assert old in text
    (copy / file).write_text(text.replace(old, new), "utf-8")
    bed.folder = copy
    try:
        yield
    finally:
        bed.folder = before


@contextmanager
def with_variable(_: Bed, name: str, value: str) -> Iterator[None]:
    before = os.environ[name]
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ[name] = before


@contextmanager
def other_secret_content(bed: Bed, secret: str) -> Iterator[None]:
    """The client secret that the provider does not know: version 2, which the operator's folder names."""
    parent = f"projects/{PROJECT}/secrets/{secret}"
    added = bed.secrets.add_secret_version(parent=parent, payload={"data": b"not what the provider has"})
    number = added.name.rpartition("/")[2]
    with edited(bed, "connections.yaml", f"{secret}, version: 1", f"{secret}, version: {number}"):
        yield


@contextmanager
def late_clock(bed: Bed) -> Iterator[None]:
    class Late:
        def now(self) -> datetime:
            return datetime.now(UTC) - timedelta(minutes=5)

    before, bed.clock = bed.clock, Late()
    try:
        yield
    finally:
        bed.clock = before


@contextmanager
def other_probe(bed: Bed, **changes: Any) -> Iterator[None]:
    before = bed.probe
    assert before is not None
    bed.probe = before.model_copy(update=changes)
    try:
        yield
    finally:
        bed.probe = before


@contextmanager
def without_dataset(bed: Bed) -> Iterator[None]:
    before, bed.dataset = bed.dataset, "somewhere_else"
    try:
        yield
    finally:
        bed.dataset = before


def _deliver_elsewhere(subscription: Any) -> None:
    subscription.push_config.push_endpoint = "http://127.0.0.1:9/elsewhere"


def _deliver_without_identity(subscription: Any) -> None:
    subscription.push_config.oidc_token = None


def _no_dead_letter(subscription: Any) -> None:
    subscription.dead_letter_policy = None


def _expires(subscription: Any) -> None:
    subscription.expiration_policy.ttl = timedelta(days=31)


def _of_another_topic(subscription: Any) -> None:
    subscription.topic = f"projects/{PROJECT}/topics/cab-audit-quarantine"


@dataclass(frozen=True)
class Fault:
    name: str
    part: str
    plant: Callable[[Bed], Any]
    check: str
    remedy: str
    needs_bigquery: bool = field(default=False)


def _carol(bed: Bed) -> Any:
    assert bed.probe is not None
    command = tuple("carol" if it == "alice" else it for it in bed.probe.id_token_command)
    return other_probe(bed, id_token_command=command)


def _other_key(bed: Bed) -> Any:
    assert bed.probe is not None
    return other_probe(
        bed, agent=bed.probe.agent.model_copy(update={"private_key_file": bed.probe.front_end.private_key_file})
    )


READERS = [member("connect_account", PROJECT), member("refresh_grants", PROJECT)]
FAULTS = (
    Fault("Firestore is down", "project", lambda bed: stopped(bed, "firestore"), "database grants", "terraform apply"),
    Fault("a client secret was disabled", "secrets", lambda bed: disabled(bed, "cab-provider-crm"), "secret cab-provider-crm", "enable it"),
    Fault("a secret that agents.yaml names is not there", "secrets", lambda bed: no_secret(bed, ""), "secret cab-client-nobody-made", "gcloud secrets versions add"),
    Fault("the escrow key was disabled", "secrets", lambda bed: disabled(bed, "cab-escrow-key"), "secret cab-escrow-key", "cab keys init"),
    Fault("the grants' data key was disabled", "secrets", lambda bed: disabled(bed, "cab-grant-data-key"), "secret cab-grant-data-key", "cab keys init"),
    Fault("exchange_token may read a provider's secret", "secrets", lambda bed: permitted(bed, "cab-provider-crm", [*READERS, member("exchange_token", PROJECT)]), "secret cab-provider-crm", "take roles/secretmanager.secretAccessor"),
    Fault("everybody may read the signing key", "secrets", lambda bed: permitted(bed, "cab-sts-signing", [member("exchange_token", PROJECT), "allUsers"]), "secret cab-sts-signing", "give it new content"),
    Fault("refresh_grants may not read what it needs", "secrets", lambda bed: permitted(bed, "cab-provider-crm", READERS[:1]), "secret cab-provider-crm", "the module grants it"),
    Fault("no signing key is active", "keys", ring_without_active_key, "signing key sts", "cab keys init"),
    Fault("the active signing key was disabled", "keys", lambda bed: disabled(bed, "cab-edge-signing"), "signing key edge", "remove-leaked --issuer edge"),
    Fault("a removed key was not destroyed", "keys", removed_key_that_was_not_destroyed, "signing key edge", "cab keys remove-leaked --issuer edge"),
    Fault("the audit subscription is gone", "topics", lambda bed: other_subscription(bed, "cab-audit-ingest", None), "subscription cab-audit-ingest", "terraform apply"),
    Fault("a topic is gone", "topics", lambda bed: no_topic(bed, "cab-audit-dead-letter"), "topic cab-audit-dead-letter", "terraform apply"),
    Fault("audit is delivered elsewhere", "topics", lambda bed: other_subscription(bed, "cab-audit-ingest", _deliver_elsewhere), "subscription cab-audit-ingest", "terraform apply"),
    Fault("audit is delivered without identity", "topics", lambda bed: other_subscription(bed, "cab-audit-ingest", _deliver_without_identity), "subscription cab-audit-ingest", "terraform apply"),
    Fault("audit has no dead letter topic", "topics", lambda bed: other_subscription(bed, "cab-audit-ingest", _no_dead_letter), "subscription cab-audit-ingest", "terraform apply"),
    Fault("the audit subscription expires", "topics", lambda bed: other_subscription(bed, "cab-audit-ingest", _expires), "subscription cab-audit-ingest", "the module forbids that"),
    Fault("the quarantine keeps another topic's messages", "topics", lambda bed: other_subscription(bed, "cab-audit-dead-letter-keep", _of_another_topic), "subscription cab-audit-dead-letter-keep", "terraform apply"),
    Fault("events could not be delivered", "topics", lambda bed: waiting_message(bed, "cab-audit-dead-letter", "cab-audit-dead-letter-keep"), "subscription cab-audit-dead-letter-keep", "docs/runbooks/audit-dead-letter.md"),
    Fault("messages are in quarantine", "topics", lambda bed: waiting_message(bed, "cab-audit-quarantine", "cab-audit-quarantine-keep"), "subscription cab-audit-quarantine-keep", "docs/runbooks/audit-quarantine.md"),
    Fault("events could not be published", "topics", unsent_event, "unsent audit events", "docs/runbooks/audit-unsent.md"),
    Fault("the origin leads nowhere", "origin", lambda bed: stopped(bed, "gateway"), "discovery", "the output `address`"),
    Fault("mint_assertion is down", "origin", lambda bed: stopped(bed, "mint_assertion"), "mint_assertion", "the log of mint_assertion"),
    Fault("exchange_token is down", "origin", lambda bed: stopped(bed, "exchange_token"), "exchange_token", "the log of exchange_token"),
    Fault("call_tool is down", "origin", lambda bed: stopped(bed, "call_tool"), "call_tool", "the log of call_tool"),
    Fault("connect_account is down", "origin", lambda bed: stopped(bed, "connect_account"), "connect_account", "the log of connect_account"),
    Fault("publish_metadata is down", "origin", lambda bed: stopped(bed, "publish_metadata"), "key set sts", "the log of publish_metadata"),
    Fault("this machine's clock is late", "origin", late_clock, "clock", "NTP"),
    Fault("the identity provider is down", "providers", lambda bed: stopped(bed, "idp"), ": discovery", "cab idp check"),
    Fault("the CRM is down", "providers", lambda bed: stopped(bed, "crm"), "connection crm: token endpoint", "cab connection check crm"),
    Fault("the CRM does not know the client secret", "providers", lambda bed: other_secret_content(bed, "cab-provider-crm"), "connection crm: client authentication", "cab connection check crm"),
    Fault("refresh_grants is down", "exchange", lambda bed: stopped(bed, "refresh_grants"), "an exchange that must succeed", "the log of refresh_grants"),
    Fault("the probe's user has no grant", "exchange", _carol, "an exchange that must succeed", "connect the account on /me"),
    Fault("the probe's key is another", "exchange", _other_key, "an exchange that must succeed", "agents.yaml"),
    Fault("the probe's login fails", "exchange", lambda bed: other_probe(bed, id_token_command=("false",)), "an exchange that must succeed", "test user"),
    Fault("the probe asks for what policy forbids", "exchange", lambda bed: other_probe(bed, intent=ProbeIntent(connection="crm", action="crm.opportunity.delete", identifier="opportunity/0061")), "an exchange that must succeed", "the intent is crm.opportunity.delete"),
    Fault("ingest_audit is down", "exchange", lambda bed: stopped(bed, "ingest_audit"), "an event that must arrive", "audit-late.md", needs_bigquery=True),
    Fault("the audit dataset is not there", "exchange", without_dataset, "an event that must arrive", "terraform apply", needs_bigquery=True),
)  # fmt: skip


def test_it_is_silent_on_a_healthy_stack_within_ten_seconds(bed: Bed) -> None:
    def doctor(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cab_ops.cli", "doctor", *options]
        paths = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "shared"), str(ROOT)))}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=paths, cwd=ROOT)

    # First in this file: what faults leave behind, such as events that could not be delivered, is found too.
    begun = time.monotonic()
    done = doctor()
    took = time.monotonic() - begun
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert took < 10
    again = doctor()  # within the same minute, in which refusals of strangers are only counted
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    told = json.loads(doctor("--json", "--all", "--only", "project").stdout)
    assert told["healthy"]
    assert {it["result"] for it in told["findings"]} == {"well"}


def test_the_scheduled_doctor_finds_it_well_with_permissions_that_only_look(bed: Bed) -> None:
    """As the identity that terraform/doctor.tf gives it. What it may not look at is unknown to it, and wakes nobody."""
    command = [sys.executable, "-m", "cab_ops.cli", "doctor", "--all", "--json"]
    paths = {"PYTHONPATH": os.pathsep.join((str(ROOT / "shared"), str(ROOT)))}
    environment = os.environ | paths | read_environment(bed.stack.state_dir, name=DOCTOR_ENVIRONMENT_NAME)
    environment.pop("CAB_PROBE_FILE", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    found = json.loads(done.stdout)["findings"]
    assert (done.returncode, [it for it in found if it["result"] == "ill"]) == (0, [])
    hidden = {it["check"] for it in found if it["result"] == "unknown" and "may not" in it["says"] + it["remedy"]}
    assert {f"subscription cab-audit-{which}-keep" for which in ("dead-letter", "quarantine")} <= hidden
    client_secrets = {it["check"] for it in found if it["check"].endswith(": client authentication")}
    assert client_secrets
    assert {it["result"] for it in found if it["check"] in client_secrets} == {"unknown"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_planted_fault_is_found_and_its_remedy_named(
    fault: Fault, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault.needs_bigquery and bed.stack.file.emulators.bigquery is None:
        pytest.skip("no BigQuery here")
    monkeypatch.setattr(exercise, "_ARRIVES_WITHIN_S", 4.0)
    with fault.plant(bed):
        found = [it for it in bed.examine(fault.part) if it.holds is Holds.NO]
    assert any(fault.check in it.check and fault.remedy in it.remedy for it in found), found
    for it in found:
        assert it.says, it
        assert it.remedy, it
        assert "\n" not in it.says + it.remedy


def test_there_are_more_than_25_faults() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) > 25


def test_the_scheduled_probe_of_terraform_is_answered_as_it_expects(patient: Stack) -> None:
    text = (ROOT / "terraform" / "probe.tf").read_text("utf-8")
    row = r'path = "([^"]+)", body = (?:null|"([^"]+)"), accepted = \["STATUS_CLASS_(\d)XX"\], says = "(.*)" \}'
    probes = re.findall(row, text)
    assert len(probes) == text.count("accepted = [") == 3
    for path, body, status, says in probes:
        url = patient.file.origin + path
        answer = requests.post(url, data=body, headers=FORM, timeout=10) if body else requests.get(url, timeout=10)
        assert answer.status_code // 100 == int(status), path
        assert says.replace('\\"', '"').replace("${local.origin}", patient.file.origin) in answer.text, path


def test_its_exit_status_says_whether_something_is_ill(bed: Bed) -> None:
    command = [sys.executable, "-m", "cab_ops.cli", "doctor", "--only", "secrets", "--json"]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "shared"), str(ROOT)))}
    with disabled(bed, "cab-idp-acme"):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=paths, cwd=ROOT)
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["check"], finding["result"]) == ("secret cab-idp-acme", "ill")


def test_a_probe_with_a_mistake_is_refused_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "probe.json"
    file.write_text('{"front_end": {"client_id": "x", "secret": "hush"}}')
    with pytest.raises(UnreadableProbe) as refused:
        read_probe(file)
    assert "front_end.secret" in str(refused.value)
    assert "hush" not in str(refused.value)


# --- what only the cloud knows ---


def _field(of: dict[str, Any], name: str, **says: Any) -> dict[str, Any]:
    """As the API says it, which leaves out what is false or empty."""
    return {"name": f"projects/p/databases/{of['database']}/collectionGroups/{of['collection']}/fields/{name}", **says}


def _index(name: str, *, state: str = "READY") -> dict[str, Any]:
    return {
        "indexes": [{"queryScope": "COLLECTION", "fields": [{"fieldPath": name, "order": "ASCENDING"}], "state": state}]
    }


COLLECTIONS = json.loads((ROOT / "shared/cab/data/firestore_fields.json").read_text("utf-8"))
FIELDS = [
    *(_field(it, "*", indexConfig={}) for it in COLLECTIONS),
    *(_field(it, "expire_at", indexConfig={}, ttlConfig={"state": "ACTIVE"}) for it in COLLECTIONS if it["expires"]),
    *(_field(it, name, indexConfig=_index(name)) for it in COLLECTIONS for name in it["indexed"]),
]


def without_field(text: str) -> list[dict[str, Any]]:
    return [it for it in FIELDS if text not in it["name"]]


def cloud(*, by_part: bool = False, **answers: Any) -> list[Diagnosis]:
    """The findings when Google's REST APIs answer so; what is not given answers as a healthy project does."""
    healthy: dict[str, Any] = {
        "services": [{"config": {"name": it}} for it in APIS],
        "indexes": [
            {
                "name": f"projects/p/databases/guards/collectionGroups/{it['collection']}/indexes/1",
                "state": "READY",
                "fields": [{"fieldPath": f["field_path"]} for f in it["fields"]] + [{"fieldPath": "__name__"}],
            }
            for it in json.loads((ROOT / "shared/cab/data/firestore_indexes.json").read_text("utf-8"))
        ],
        "fields": FIELDS,
        "bindings": [{"role": "roles/owner", "members": ["user:owner@example.com"]}],
    } | answers

    def call(_: str, url: str) -> dict[str, Any]:
        (which,) = [it for it in ("services", "indexes", "fields", "IamPolicy") if it in url.partition("?")[0]]
        which = which.replace("IamPolicy", "bindings")
        if healthy[which] is None:
            raise Unavailable("Google's APIs")
        return {which: [it for it in healthy[which] if which != "fields" or it["name"].split("/")[3] in url]}

    return [it for it in CloudFacts("p", call, sweeps_ask_by_part=by_part).look() if it.holds is not Holds.YES]


def test_a_healthy_project_has_nothing_to_say() -> None:
    assert cloud() == []


def test_a_missing_api_is_named() -> None:
    (found,) = cloud(services=[{"config": {"name": it}} for it in APIS if it != "run.googleapis.com"])
    assert "gcloud services enable run.googleapis.com" in found.remedy


def test_an_index_that_is_not_ready_is_named() -> None:
    found = cloud(indexes=[])
    assert found
    assert all("is not there" in it.says for it in found)


def test_an_index_of_a_single_field_that_is_not_there_or_not_built_is_named() -> None:
    for fields in (
        without_field("events/fields/kept_at"),
        [
            *without_field("events/fields/kept_at"),
            _field(COLLECTIONS[-1], "kept_at", indexConfig=_index("kept_at", state="CREATING")),
        ],
        [*without_field("events/fields/kept_at"), _field(COLLECTIONS[-1], "kept_at", ttlConfig={"state": "ACTIVE"})],
    ):
        (found,) = cloud(fields=fields)
        assert (found.check, "events.kept_at have no index" in found.says) == ("fields of unsent", True)


def test_sweeps_that_ask_by_part_need_no_index_of_due_at() -> None:
    gone = without_field("grants/fields/due_at")
    assert ["grants.due_at" in it.says for it in cloud(fields=gone)] == [True]
    assert cloud(fields=gone, by_part=True) == []


def test_fields_that_are_indexed_for_nothing_and_documents_that_are_kept_for_ever_are_named() -> None:
    (found,) = cloud(fields=without_field("payloads/fields/*"))
    assert (found.check, found.says.startswith("payloads have an index of every field")) == ("fields of grants", True)
    (found,) = cloud(fields=without_field("sessions/fields/expire_at"))
    assert (found.check, found.says.startswith("sessions keep what has ended")) == ("fields of approvals", True)
    as_made_by_hand = cloud(fields=[])
    assert {it.check for it in as_made_by_hand} == {f"fields of {name}" for name in DATABASES}
    assert not any("no index" in it.says for it in as_made_by_hand), "Firestore indexes whatever nobody speaks of"


def test_somebody_who_reads_every_secret_is_named() -> None:
    wide = {
        "role": "roles/secretmanager.secretAccessor",
        "members": ["serviceAccount:helper@p.iam.gserviceaccount.com"],
    }
    (found,) = cloud(bindings=[wide])
    assert "helper@p" in found.says
    assert cloud(bindings=[wide | {"condition": {"expression": "..."}}]) == []


def test_who_is_wide_in_each_project_or_as_the_pages_say_is_not_ill() -> None:
    def found(role: str, *members: str) -> list[Diagnosis]:
        return cloud(bindings=[{"role": role, "members": [f"serviceAccount:{it}" for it in members]}])

    assert found("roles/editor", "123456789012@cloudservices.gserviceaccount.com") == []
    assert found("roles/owner", "cab-apply@p.iam.gserviceaccount.com") == []
    for role, account in (
        ("roles/editor", "123456789012-compute@developer.gserviceaccount.com"),
        ("roles/editor", "exchange-token@p.iam.gserviceaccount.com"),
        ("roles/owner", "123456789012@cloudservices.gserviceaccount.com"),
        ("roles/owner", "cab-apply@elsewhere.iam.gserviceaccount.com"),
        ("roles/secretmanager.secretAccessor", "cab-apply@p.iam.gserviceaccount.com"),
    ):
        (one,) = found(role, account)
        assert one.says.startswith(f"serviceAccount:{account} ")
        assert ("reads every secret" in one.says) == (role != "roles/editor"), "Editors read no secret by that role"


def test_what_may_not_be_asked_is_unknown_and_not_ill() -> None:
    found = cloud(services=None, bindings=None, indexes=None, fields=None)
    assert {it.holds for it in found} == {Holds.UNKNOWN}


def test_a_certificate_that_ends_soon_is_ill() -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    assert lifetime({"notAfter": "Dec  5 00:00:00 2026 GMT"}, now).holds is Holds.NO
    assert lifetime({"notAfter": "Feb  5 00:00:00 2027 GMT"}, now).holds is Holds.YES


def test_the_apis_and_the_readers_of_secrets_are_those_of_terraform() -> None:
    text = (ROOT / "terraform" / "apis.tf").read_text("utf-8")
    always = text[text.index("concat([") : text.index("],", text.index("concat(["))]
    assert {line.strip().split('"')[1] for line in always.splitlines() if line.strip().startswith('"')} == set(APIS)
