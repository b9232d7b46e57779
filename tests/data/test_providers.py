"""The shipped presets: what they say must be usable, careful where nothing is known, and shown as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cab.adapters.configuration.checks.urls import url_mistake
from cab.adapters.configuration.shipped import shipped_providers
from cab.domain.configured.connections import GrantKind, Provider, RotationClass
from cab.domain.configured.provider_parameters import placeholders
from cab_ops.cli.config import config_group
from cab_ops.configuration.provider_table import presets, with_provider_table

ROOT = Path(__file__).resolve().parents[2]
PROVIDERS = {provider.id: provider for provider in presets()}
ADDRESSES = ("issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint")
# Systems whose addresses a deployment must give: nothing general can be said about them.
WITHOUT_ADDRESSES = {"generic-oauth2", "generic-oidc"}
WITHOUT_AUTHORIZATION_ENDPOINT = WITHOUT_ADDRESSES | {"workday"}
# Whoever is added here has a source for it in the data.
NOT_STRICT = {
    "google": RotationClass.STATIC,
    "microsoft": RotationClass.STATIC,
    "microsoft-on-behalf-of": RotationClass.STATIC,
    "dynamics-365": RotationClass.STATIC,
    "dropbox": RotationClass.STATIC,
    "atlassian": RotationClass.LEEWAY,
    "okta": RotationClass.LEEWAY,
    "okta-api": RotationClass.LEEWAY,
    "zoho": RotationClass.STATIC,
    "xero": RotationClass.LEEWAY,
}
LIVES_ON = {"keycloak"}  # strict, and older access tokens live to their end all the same
every_preset = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)


def addresses_of(provider: Provider) -> list[str]:
    found = [getattr(provider, name) for name in ADDRESSES] + [provider.revocation.endpoint]
    return [address for address in found if address is not None]


def examples_of(provider: Provider) -> dict[str, str]:
    return {name: parameter.example for name, parameter in provider.parameters.items()}


def test_the_systems_people_ask_for_are_there() -> None:
    assert {
        "salesforce", "servicenow", "atlassian", "asana", "monday", "hubspot", "slack", "github-app", "github-oauth-app",
        "gitlab", "google", "google-cloud-workforce", "microsoft", "microsoft-on-behalf-of", "dynamics-365", "zendesk", "notion",
        "linear", "box", "dropbox", "docusign", "zoom", "snowflake", "databricks", "sap-btp", "sap-cloud-identity", "workday", "okta", "auth0",
        "generic-oauth2", "generic-oidc", "trusts-cab", "keycloak", "zitadel", "zoho", "pipedrive", "intercom", "miro", "bitbucket",
        "xero", "quickbooks",
    } <= set(PROVIDERS)  # fmt: skip
    assert len(shipped_providers()) == len(PROVIDERS)


def test_a_provider_that_says_nothing_is_treated_in_the_strictest_way() -> None:
    unknown = Provider(id="unknown", title="Unknown")
    assert unknown.rotation.rotation_class is RotationClass.STRICT
    assert unknown.rotation.reuse_revokes_family
    assert unknown.rotation.old_access_token == "unknown"
    assert unknown.narrowing == "none"
    assert unknown.revocation.blast_radius == "unknown"
    assert unknown.access_token_lifetime_s is None


def test_whatever_is_not_known_to_forgive_a_second_use_is_strict() -> None:
    forgiving = {
        provider.id: provider.rotation.rotation_class
        for provider in PROVIDERS.values()
        if provider.rotation.rotation_class is not RotationClass.STRICT
    }
    assert forgiving == NOT_STRICT


@every_preset
def test_a_strict_preset_expects_that_reuse_ends_the_grant(provider: Provider) -> None:
    if provider.rotation.rotation_class is RotationClass.STRICT:
        assert provider.rotation.reuse_revokes_family
        known = {"unknown", "dies_at_once"} | ({"lives_on"} if provider.id in LIVES_ON else set())
        assert provider.rotation.old_access_token in known


@every_preset
def test_an_old_access_token_is_only_kept_where_using_a_refresh_token_twice_is_harmless(provider: Provider) -> None:
    if provider.rotation.old_access_token == "lives_on":
        assert provider.id in NOT_STRICT.keys() | LIVES_ON


@every_preset
def test_every_address_is_https_as_written_and_as_filled(provider: Provider) -> None:
    filled = provider.at(examples_of(provider))
    for address in addresses_of(provider) + addresses_of(filled):
        assert url_mistake(address, allow_loopback_http=False) is None
        assert "?" not in address
    assert [name for address in addresses_of(filled) for name in placeholders(address)] == []


@every_preset
def test_every_declared_parameter_is_used(provider: Provider) -> None:
    assert set(provider.open_parameters) == set(provider.parameters)


@every_preset
def test_a_preset_says_what_its_grant_kinds_need(provider: Provider) -> None:
    if provider.id in WITHOUT_ADDRESSES or provider.grant_kinds == (GrantKind.BROKER_JWT,):
        assert addresses_of(provider) == []
        return
    assert provider.token_endpoint is not None
    if GrantKind.AUTHORIZATION_CODE in provider.grant_kinds:
        assert (provider.authorization_endpoint is None) == (provider.id in WITHOUT_AUTHORIZATION_ENDPOINT)


@every_preset
def test_a_grant_is_kept_alive_well_before_a_year_and_not_by_the_hour(provider: Provider) -> None:
    assert provider.keepalive_s is None or 86_400 <= provider.keepalive_s <= 180 * 86_400


@every_preset
def test_authorization_parameters_never_replace_what_the_broker_decides(provider: Provider) -> None:
    decided = {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
    }
    assert not decided & set(provider.authorization_parameters)


def test_every_preset_names_a_source_or_says_that_there_is_none() -> None:
    text = (ROOT / "shared" / "cab" / "data" / "providers.yaml").read_text("utf-8")
    for entry in text.split("\n  - id: ")[1:]:
        assert "    # " in entry, entry.partition("\n")[0]


def test_what_the_functions_read_is_what_is_written(tmp_path: Path) -> None:
    written = tmp_path / "providers.json"
    assert CliRunner().invoke(config_group, ["providers", "--compile", str(written)]).exit_code == 0
    committed = ROOT / "shared" / "cab" / "data" / "providers.json"
    assert committed.read_bytes() == written.read_bytes(), f"run: cab config providers --compile {committed}"


def test_the_committed_table_is_current() -> None:
    document = (ROOT / "docs" / "providers.md").read_text("utf-8")
    assert with_provider_table(document) == document, "run: cab config providers --write docs/providers.md"


def test_the_command_prints_the_table_that_is_committed() -> None:
    printed = CliRunner().invoke(config_group, ["providers"])
    assert printed.exit_code == 0
    assert printed.output in (ROOT / "docs" / "providers.md").read_text("utf-8")


def test_the_command_prints_one_json_object_with_every_preset() -> None:
    printed = CliRunner().invoke(config_group, ["providers", "--json"])
    assert printed.exit_code == 0
    rows = json.loads(printed.output)["providers"]
    assert [row["provider"] for row in rows] == list(PROVIDERS)
    atlassian = next(row for row in rows if row["provider"] == "atlassian")
    assert atlassian["rotation"] == "leeway 600 s"
    assert "invalid_grant comes with 400, 403" in atlassian["quirks"]


def test_a_document_without_markers_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("no markers")
    result = CliRunner().invoke(config_group, ["providers", "--write", str(document)])
    assert (result.exit_code, document.read_text()) == (1, "no markers")
