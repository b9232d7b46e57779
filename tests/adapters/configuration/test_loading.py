"""What a valid folder becomes."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.configuration.deployment_folder import (
    BROKER,
    CONNECTIONS,
    ENVIRONMENT,
    FILES,
    POLICIES,
    deployment_of,
    replaced,
    write_folder,
)

from cab.adapters.configuration import yaml_tree
from cab.adapters.configuration.folder import digest_of
from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.configuration.problems import ConfigurationRefused
from cab.adapters.configuration.shipped import shipped_providers
from cab.adapters.configuration.yaml_tree import read_yaml
from cab.domain.configured.connections import Provider, RotationClass


def load(root: Path, environment: dict[str, str] | None = None) -> FolderConfiguration:
    return FolderConfiguration(root, ENVIRONMENT if environment is None else environment)


def test_a_deployment_holds_what_the_files_say(tmp_path: Path) -> None:
    deployment = load(write_folder(tmp_path)).load()
    assert deployment.broker.sts_issuer == "https://cab.test/oauth2"
    assert deployment.connection_by_resource["https://crm.test"].id == "crm"
    assert deployment.agent_by_id["helper"].delegates_to == ("assistant",)
    assert deployment.front_end_by_id["web"].idp_client_id == "web-at-idp"
    assert deployment.identity_provider_by_issuer["https://idp.test"].groups == {"S": "sales", "O": "ops"}
    assert deployment.policies == (("policies/sales.cedar", POLICIES),)
    assert deployment.candidate_policies == ()


def test_loading_raises_with_every_error_and_without_warnings(tmp_path: Path) -> None:
    broker = replaced(BROKER, "id: globex", "id: acme").replace("[CRM_ORIGIN]", "[CRM_ORIGIN, UNUSED]")
    with pytest.raises(ConfigurationRefused) as refused:
        load(write_folder(tmp_path, broker=broker, policies__sales=None)).load()
    assert {problem.severity for problem in refused.value.problems} == {"error"}
    assert {problem.file for problem in refused.value.problems} >= {"broker.yaml", "policies"}


def test_an_own_provider_takes_over_the_facts_of_the_one_it_extends(tmp_path: Path) -> None:
    connections = replaced(CONNECTIONS, "extends: generic-oauth2", "extends: okta")
    provider = deployment_of(tmp_path, connections=connections).provider_by_id["own-crm"]
    assert provider.rotation.rotation_class is RotationClass.LEEWAY
    assert provider.title == "Own CRM"
    assert provider.token_endpoint == "https://login.crm.test/token"


def test_a_deployment_knows_its_own_providers_and_all_shipped_ones(tmp_path: Path) -> None:
    providers = deployment_of(tmp_path).provider_by_id
    assert set(providers) == {*shipped_providers(), "own-crm"}
    assert len(providers) == len(set(providers))
    assert providers["google"] is providers["google"]
    assert "no-such" not in providers


def test_every_shipped_provider_is_valid_and_says_only_https() -> None:
    for provider_id, entry in shipped_providers().items():
        provider = Provider.model_validate(entry)
        assert provider.id == provider_id
        endpoints = (provider.authorization_endpoint, provider.token_endpoint, provider.revocation.endpoint)
        assert all(endpoint is None or endpoint.startswith("https://") for endpoint in endpoints)


def test_an_unknown_system_is_treated_as_strict() -> None:
    assert (
        Provider.model_validate(shipped_providers()["generic-oauth2"]).rotation.rotation_class is RotationClass.STRICT
    )


def test_the_policy_version_is_the_digest_of_names_and_bytes_before_filling(tmp_path: Path) -> None:
    hasher = hashlib.sha256()
    for name in sorted(FILES):
        for part in (name.encode(), FILES[name].encode()):
            hasher.update(len(part).to_bytes(8, "big") + part)
    expected = "sha-256:" + urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode()

    root = write_folder(tmp_path)
    assert load(root).load().policy_version == expected
    elsewhere = replaced(FILES["agents.yaml"], 'introspects: ["https://crm.test"]', "introspects: []")
    elsewhere = replaced(elsewhere, 'resource: "https://crm.test"', 'resource: "${CRM_ORIGIN}"')
    first = load(write_folder(tmp_path, agents=elsewhere)).load()
    second = load(tmp_path, {"CRM_ORIGIN": "https://other.test"}).load()
    assert first.connections != second.connections
    assert first.policy_version == second.policy_version


def test_the_digest_tells_names_contents_and_their_borders_apart() -> None:
    variants: tuple[dict[str, bytes], ...] = (
        {"a": b"bc"},
        {"ab": b"c"},
        {"a": b"b", "c": b""},
        {"a": b"", "c": b"b"},
        {},
    )
    assert len({digest_of(files) for files in variants}) == len(variants)


def test_candidate_policies_are_read_and_change_the_policy_version(tmp_path: Path) -> None:
    before = deployment_of(tmp_path)
    after = deployment_of(tmp_path, policies_candidate__sales=POLICIES)
    assert after.candidate_policies == (("policies_candidate/sales.cedar", POLICIES),)
    assert after.policy_version != before.policy_version


def test_variables_are_never_filled_inside_policies(tmp_path: Path) -> None:
    text = POLICIES + "// ${CRM_ORIGIN}\n"
    assert deployment_of(tmp_path, policies__sales=text).policies == (("policies/sales.cedar", text),)


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-3", -3),
        ("'12'", "12"),
        ('"true"', "true"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2026-11-21", "2026-11-21"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars_are_read_by_the_yaml_1_2_core_rules(
    text: str, value: object, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_tree, "_Loader", getattr(yaml, loader))
    tree, problems = read_yaml("f.yaml", f"key: {text}\n".encode())
    assert tree is not None
    assert (tree.value, problems) == ({"key": value}, [])


@given(data=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_give_a_tree_or_a_problem_and_never_an_exception(data: bytes) -> None:
    tree, problems = read_yaml("f.yaml", data)
    assert tree is not None or problems
