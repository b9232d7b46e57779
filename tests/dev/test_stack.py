"""The table of the local stack, before anything runs."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cab_dev import stack_file
from cab_dev.processes.ports import PortLeases
from cab_dev.processes.progress import Progress
from cab_dev.processes.supervisor import Service, StartFailed, Supervisor
from cab_dev.services import bigquery
from cab_dev.stack import FUNCTIONS, ROOT, EmulatorKind, Stack, StackOptions, account, run_stack
from cab_dev.stack_file import NoStack, StackFile
from gcp_emulators.official import OfficialEmulator

ACME = ROOT / "examples" / "acme"


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[PortLeases]:
    with PortLeases(tmp_path / "leases") as opened:
        yield opened


@pytest.fixture
def emulators_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if BigQuery and the official emulators were there: nothing of them is started here."""
    server = bigquery.BigQueryServer(("local-bigquery",), {}, "http://127.0.0.1:1", "http://127.0.0.1:1/ready")
    monkeypatch.setattr(bigquery, "server", lambda **_: server)
    emulator = OfficialEmulator("pubsub", ("java",), "http://127.0.0.1:2/", tmp_path / "archive", None)
    monkeypatch.setattr("cab_dev.stack.official_emulator", lambda *_, **__: emulator)


def services_of(stack: Stack) -> dict[str, Service]:
    return {part.name: part for part in stack.parts() if isinstance(part, Service)}


@pytest.mark.usefixtures("emulators_installed")
@pytest.mark.parametrize("kind", ["embedded", "official"])
@pytest.mark.parametrize("with_bigquery", [True, False])
def test_the_table_hangs_together(
    leases: PortLeases, tmp_path: Path, kind: EmulatorKind, *, with_bigquery: bool
) -> None:
    stack = Stack(StackOptions(port=0, emulators=kind, state_dir=tmp_path), leases, with_bigquery=with_bigquery)
    Supervisor(stack.parts(), logs=tmp_path, progress=Progress(io.StringIO()))
    services = services_of(stack)
    assert {*FUNCTIONS, "gateway", "idp", "crm", "tracker", "warehouse", "scheduler"} <= services.keys()
    assert ("push_proxy" in services) == (kind == "official")
    assert ("bigquery" in services) == with_bigquery
    assert ("CAB_AUDIT_ROWS_FILE" in services["ingest_audit"].environment) != with_bigquery


def test_every_function_runs_as_its_own_service_account(leases: PortLeases, tmp_path: Path) -> None:
    services = services_of(Stack(StackOptions(port=0, state_dir=tmp_path), leases, with_bigquery=False))
    command = services["google_identity"].command
    accounts: dict[str, int | None] = json.loads(command[command.index("--accounts") + 1])
    for name in FUNCTIONS:
        port = accounts[f"{name.replace('_', '-')}@demo-cab.iam.gserviceaccount.com"]
        assert services[name].environment["GCE_METADATA_HOST"] == f"127.0.0.1:{port}"
    assert len({services[name].environment["GCE_METADATA_HOST"] for name in FUNCTIONS}) == len(FUNCTIONS)


def test_only_the_exchange_may_ask_for_tokens_of_grants(leases: PortLeases, tmp_path: Path) -> None:
    services = services_of(Stack(StackOptions(port=0, state_dir=tmp_path), leases, with_bigquery=False))
    environment = services["refresh_grants"].environment
    assert environment["CAB_TOKEN_CALLERS"] == account("exchange_token")
    assert account("exchange_token") not in environment["CAB_SWEEP_CALLERS"].split(",")
    assert environment["CAB_REVOKE_CALLERS"].split(",") == [account("connect_account"), account("operator")]


def test_the_commands_of_an_operator_are_led_to_the_stack(leases: PortLeases, tmp_path: Path) -> None:
    stack = Stack(StackOptions(port=0, state_dir=tmp_path), leases, with_bigquery=False)
    command = services_of(stack)["google_identity"].command
    accounts: dict[str, int | None] = json.loads(command[command.index("--accounts") + 1])
    environment = stack.operator_environment()
    assert environment["GCE_METADATA_HOST"] == f"127.0.0.1:{accounts[account('operator')]}"
    assert environment["CAB_REFRESH_GRANTS_URL"] == stack.called_at("refresh_grants")


def test_a_folder_finds_the_variables_that_it_declares_in_the_environment_of_who_starts_the_stack(
    leases: PortLeases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own `${NAME}` were unset in every function, whatever `cab dev up` was started with."""
    folder = shutil.copytree(ACME, tmp_path / "folder")
    broker = folder / "broker.yaml"
    broker.write_text(broker.read_text("utf-8").replace("  - CAB_ORIGIN\n", "  - CAB_ORIGIN\n  - SHOPS_IDP_ORIGIN\n"))
    monkeypatch.setenv("SHOPS_IDP_ORIGIN", "http://127.0.0.1:8111")
    monkeypatch.setenv("UNDECLARED_PASSWORD", "x")
    monkeypatch.setenv("CAB_ORIGIN", "http://127.0.0.1:1")  # the stack knows its own better
    stack = Stack(StackOptions(config_dir=folder, port=0, state_dir=tmp_path / "state"), leases, with_bigquery=False)
    services = services_of(stack)
    for function in FUNCTIONS:
        environment = services[function].environment
        assert environment["SHOPS_IDP_ORIGIN"] == "http://127.0.0.1:8111"
        assert environment["CAB_ORIGIN"] == stack.origin
        assert "UNDECLARED_PASSWORD" not in environment


def test_no_function_is_given_a_secret_by_its_environment(leases: PortLeases, tmp_path: Path) -> None:
    services = services_of(Stack(StackOptions(port=0, state_dir=tmp_path), leases, with_bigquery=False))
    names = {name for function in FUNCTIONS for name in services[function].environment}
    assert [name for name in names if "SECRET" in name and name != "SECRET_MANAGER_EMULATOR_HOST"] == []


def test_no_service_sees_the_home_folder_of_the_person_who_started_it(
    leases: PortLeases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    services = services_of(Stack(StackOptions(port=0, state_dir=tmp_path), leases, with_bigquery=False))
    homes = {name: service.environment["HOME"] for name, service in services.items()}
    assert all(home.startswith(str(tmp_path)) for home in homes.values())
    assert len({homes[name] for name in FUNCTIONS}) == len(FUNCTIONS)


def test_a_taken_gateway_port_is_refused_with_the_remedy(leases: PortLeases, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"Port {port} is taken: .* choose another with --port"):
            Stack(StackOptions(port=port, state_dir=tmp_path), leases, with_bigquery=False)


def test_other_ports_that_are_taken_fall_back_to_free_ones(leases: PortLeases, tmp_path: Path) -> None:
    with PortLeases(tmp_path / "leases") as neighbour:
        taken = neighbour.take_free(preferred=8081)
        stack = Stack(StackOptions(port=0, state_dir=tmp_path), leases, with_bigquery=False)
    assert stack.ports["idp"] != taken
    assert stack.organisation.variables["ACME_IDP_ORIGIN"] == f"http://127.0.0.1:{stack.ports['idp']}"


def test_a_folder_without_configuration_is_refused_with_the_remedy(leases: PortLeases, tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"holds no broker\.yaml: name a configuration folder with --config"):
        Stack(StackOptions(config_dir=tmp_path, port=0, state_dir=tmp_path), leases, with_bigquery=False)


async def test_mistakes_in_the_configuration_end_the_start_with_a_pointer_to_the_explanation(
    leases: PortLeases, tmp_path: Path
) -> None:
    folder = tmp_path / "config"
    (folder / "policies").mkdir(parents=True)
    for file in (*ACME.glob("*.yaml"), *ACME.glob("policies/*.cedar")):
        text = file.read_text().replace("tenant: acme", "tenant: nobody")
        (folder / file.relative_to(ACME)).write_text(text)
    options = StackOptions(config_dir=folder, port=0, state_dir=tmp_path / "state")
    configuration = next(
        part for part in Stack(options, leases, with_bigquery=False).parts() if part.name == "configuration"
    )
    assert not isinstance(configuration, Service)
    with pytest.raises(StartFailed, match=r"`cab config validate` explains each"):
        await configuration.run()


async def test_a_state_folder_serves_one_stack_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery, "is_installed", lambda: False)

    def none() -> str:
        raise bigquery.NotInstallable("no Python 3.13")

    monkeypatch.setattr(bigquery, "find_python", none)
    first, second = io.StringIO(), io.StringIO()
    seen: list[int] = []

    async def run_another(*_: object) -> None:
        seen.append(await run_stack(StackOptions(port=0, state_dir=tmp_path), second))

    monkeypatch.setattr("cab_dev.stack._run", run_another)
    assert await run_stack(StackOptions(port=0, state_dir=tmp_path), first) == 0
    assert seen == [1]
    assert "A stack already runs with the state folder" in second.getvalue()
    assert "No BigQuery here: no Python 3.13" in first.getvalue()


def test_reading_the_file_of_a_stack_that_does_not_run_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NoStack, match="cab dev up"):
        StackFile.read(tmp_path)
    with pytest.raises(NoStack, match="cab dev up"):
        stack_file.read_environment(tmp_path)
