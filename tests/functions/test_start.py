"""A wrong setting or configuration stops the revision, with a sentence per mistake and never a value (style.md; security.md X5)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.world import DEPLOYMENT, World

FUNCTIONS = ["mint_assertion", "exchange_token", "publish_metadata", "refresh_grants"]
REQUIRED = [
    *((function, "GOOGLE_CLOUD_PROJECT") for function in [*FUNCTIONS, "ingest_audit"]),
    *((function, "CAB_CONFIG_DIR") for function in FUNCTIONS),
    ("exchange_token", "CAB_REFRESH_GRANTS_URL"),
    ("refresh_grants", "CAB_REFRESH_GRANTS_URL"),
    ("refresh_grants", "CAB_TOKEN_CALLERS"),
    ("refresh_grants", "CAB_REVOKE_CALLERS"),
    ("refresh_grants", "CAB_SWEEP_CALLERS"),
    ("ingest_audit", "CAB_INGEST_AUDIT_URL"),
    ("ingest_audit", "CAB_PUSH_ACCOUNT"),
    ("ingest_audit", "CAB_AUDIT_SUBSCRIPTION"),
]
WRONG = [
    ("exchange_token", "CAB_REFRESH_GRANTS_URL", "refresh.internal/canary"),
    ("exchange_token", "CAB_REFRESH_GRANTS_URL", "https://refresh.internal/canary"),
    ("exchange_token", "CAB_CONFIG_DIR", "/nowhere/canary"),
    ("exchange_token", "CAB_AUDIT_TOPIC", ""),
    ("refresh_grants", "CAB_TOKEN_CALLERS", "canary"),
    ("refresh_grants", "CAB_TOKEN_CALLERS", "a@b.test,not an account canary"),
    ("ingest_audit", "CAB_PUSH_ACCOUNT", "canary"),
    ("ingest_audit", "CAB_AUDIT_SUBSCRIPTION", "canary"),
]


def refusal(world: World, function: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        world.function(function)
    return str(stopped.value)


@pytest.mark.parametrize(("function", "variable"), REQUIRED)
def test_a_setting_that_is_missing_stops_the_start_by_name(function: str, variable: str, tmp_path: Path) -> None:
    world = World(scratch=tmp_path)
    del world.environment[variable]
    assert variable in refusal(world, function)


@pytest.mark.parametrize(("function", "variable", "value"), WRONG)
def test_a_wrong_setting_stops_the_start_and_is_not_quoted(
    function: str, variable: str, value: str, tmp_path: Path
) -> None:
    changed: dict[str, Any] = {variable: value}
    sentence = refusal(World(scratch=tmp_path, **changed), function)
    assert variable in sentence
    assert "canary" not in sentence


@pytest.mark.parametrize("function", FUNCTIONS)
def test_in_the_cloud_a_configuration_for_loopback_does_not_start(function: str, tmp_path: Path) -> None:
    sentence = refusal(World(scratch=tmp_path, K_SERVICE=function), function)
    assert "allow_loopback_http" in sentence


def test_in_the_cloud_audit_rows_go_to_no_file(tmp_path: Path) -> None:
    world = World(scratch=tmp_path, K_SERVICE="ingest-audit", CAB_AUDIT_ROWS_FILE=str(tmp_path / "rows"))
    assert "CAB_AUDIT_ROWS_FILE" in refusal(world, "ingest_audit")


BROKEN_POLICIES = [
    "permit (principal, action, resource);",
    '@id("a") permit (principal, action, resource',
    '@id("a") permit (principal, action, resource); @id("a") permit (principal, action, resource);',
    '@id("a") permit (principal, action, resource) when { context.nothing == "x" };',
    '@id("a") permit (principal, action == CAB::Action::"no.such.action", resource);',
    '@id("a") @confrm("x") permit (principal, action, resource);',
    '@id("a") @max_age("soon") permit (principal, action, resource);',
    '@id("a") permit (principal, action, resource) when { context.trigger == "scheduled" };',
    '@id("a") permit (principal in CAB::Group::"nobody", action, resource) when { context.parameters.amount > 1 };',
    "// nothing",
    "",
]


@pytest.mark.parametrize("text", BROKEN_POLICIES)
def test_a_policy_with_a_mistake_never_decides(text: str, tmp_path: Path) -> None:
    world = World(scratch=tmp_path)
    broken = World(world.write_policies(text), scratch=tmp_path)
    assert "rules.cedar" in refusal(broken, "exchange_token")


def test_every_mistake_of_the_configuration_is_told_at_once(tmp_path: Path) -> None:
    def change(text: str) -> str:
        return text.replace("provider: trusts-cab", "provider: nothing", 1).replace("effect: read", "effect: reed", 1)

    broken = World(World(scratch=tmp_path).write_policies(None, connections=change), scratch=tmp_path)
    assert "connections.yaml" in refusal(broken, "mint_assertion")


def test_a_variable_of_the_configuration_that_is_not_set_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAREHOUSE_ORIGIN", raising=False)
    world = World(scratch=tmp_path)
    del world.environment["WAREHOUSE_ORIGIN"]
    assert "WAREHOUSE_ORIGIN" in refusal(world, "publish_metadata")


@pytest.mark.parametrize("function", [*FUNCTIONS, "ingest_audit"])
def test_a_function_that_starts_has_opened_no_connection_yet(function: str, tmp_path: Path) -> None:
    """The server forks after importing: clients connect on first use, inside the loop of their worker."""
    world = World(scratch=tmp_path)
    world.function(function)
    assert world.web.sent == []
    assert all(sum(documents.calls.values()) == 0 for documents in world.cloud.documents.values())
    assert world.cloud.vault.calls == {}


def test_the_garbage_collector_seldom_looks_and_never_at_what_a_function_was_built_of(tmp_path: Path) -> None:
    World(scratch=tmp_path).function("exchange_token")
    assert gc.get_threshold()[0] == 20_000
    assert gc.get_freeze_count() > 50_000  # Python itself freezes a few hundred, or none


def test_the_deployment_of_these_tests_has_no_mistake(validate: Callable[[Path], list[str]]) -> None:
    assert validate(DEPLOYMENT) == ["no policy permits warehouse.salary.read to anyone"]


@pytest.fixture
def validate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    from tests.support.world import ENVIRONMENT

    from cab.adapters.configuration.loader import inspect_folder

    return lambda folder: [problem.message for problem in inspect_folder(folder, ENVIRONMENT).problems]
