"""A value given for a provider's address can fill its place and nothing more."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cab.domain.configured.connections import Provider, Revocation
from cab.domain.configured.provider_parameters import ParameterKind, ProviderParameter
from cab_ops.configuration.provider_table import presets

SUBDOMAIN = ProviderParameter(kind=ParameterKind.SUBDOMAIN, description="Instance.", example="acme")
HOST = ProviderParameter(kind=ParameterKind.HOST, description="Host.", example="git.acme.example", default="gitlab.com")
SEGMENT = ProviderParameter(kind=ParameterKind.SEGMENT, description="Tenant.", example="acme")
ZOHO_HOST = next(item for item in presets() if item.id == "zoho").parameters["accounts_host"]
NAMES = {"instance": SUBDOMAIN, "host": HOST, "tenant": SEGMENT}

ATTACKS = [
    "", ".", "..", "a..b", ".a", "a.", "-a", "a-", "a/b", "a\\b", "a?b", "a#b", "a@b", "a:80", "a b", "a\n", "a%2e", "a{b}", "A",
    "ä", "evil.test/", "evil.test?", "evil.test#", "user@evil.test", "https://evil.test", "//evil.test", "a\x00", "\u202ea", "a_b",
]  # fmt: skip


def provider(address: str, **members: object) -> Provider:
    return Provider.model_validate({"id": "p", "title": "P", "parameters": NAMES, "token_endpoint": address} | members)


@pytest.mark.parametrize("value", [*ATTACKS, "a" * 64, "a.b.c.d.e.f"])
def test_a_subdomain_is_labels_and_nothing_else(value: str) -> None:
    assert SUBDOMAIN.mistake(value)


@pytest.mark.parametrize(
    "value", [*ATTACKS, "localhost", "127.0.0.1", "[::1]", "0x7f.1", "10.0.0.1", "a." * 130 + "test"]
)
def test_a_host_is_a_name_with_a_domain_and_no_address(value: str) -> None:
    assert HOST.mistake(value)


@pytest.mark.parametrize("value", [value for value in ATTACKS if value not in ("-a", "a-", "A", "a_b")] + ["a" * 129])
def test_a_segment_is_one_segment(value: str) -> None:
    assert SEGMENT.mistake(value)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (SUBDOMAIN, "acme"), (SUBDOMAIN, "acme--uat.sandbox.my"), (SUBDOMAIN, "a"), (SUBDOMAIN, "1"),
        (HOST, "gitlab.com"), (HOST, "dbc-a1b2345c-d6e7.cloud.databricks.com"), (HOST, "adb-1.2.azuredatabricks.net"),
        (HOST, "xn--bcher-kva.example"),
        (SEGMENT, "organizations"), (SEGMENT, "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"), (SEGMENT, "acme.onmicrosoft.com"),
        (SEGMENT, "aus9o8wzkhckw9TLa0h7"),
    ],
)  # fmt: skip
def test_what_real_systems_use_fits(parameter: ProviderParameter, value: str) -> None:
    assert parameter.mistake(value) is None


def test_addresses_are_filled_everywhere_and_defaults_stand_in() -> None:
    found = provider(
        "https://{instance}.crm.example.com/{tenant}/token",
        issuer="https://{host}",
        revocation=Revocation(endpoint="https://{host}/revoke", blast_radius="grant"),
    ).at({"instance": "acme.eu", "tenant": "t1"})
    assert found.token_endpoint == "https://acme.eu.crm.example.com/t1/token"
    assert found.issuer == "https://gitlab.com"
    assert found.revocation == Revocation(endpoint="https://gitlab.com/revoke", blast_radius="grant")
    assert found.open_parameters == {}


def test_a_provider_without_parameters_is_itself() -> None:
    plain = Provider(id="p", title="P", token_endpoint="https://x.test/token")
    assert plain.at({}) is plain


def test_a_missing_value_is_never_papered_over() -> None:
    with pytest.raises(KeyError):
        provider("https://{instance}.example.com/token").at({})


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("https://{nobody}.example.com/token", "names a parameter that `parameters` does not declare"),
        ("https://{}.example.com/token", "names a parameter that `parameters` does not declare"),
        ("https://{instance.example.com/token", "has a brace without its partner"),
        ("https://instance}.example.com/token", "has a brace without its partner"),
        ("https://{{instance}}.example.com/token", "has a brace without its partner"),
        ("https://{instance}/token", "has a subdomain parameter in a place of another kind"),
        ("https://{instance}.com/token", "has a subdomain parameter in a place of another kind"),
        ("https://x{instance}.example.com/token", "has a subdomain parameter in a place of another kind"),
        ("https://example.com/{instance}/token", "has a subdomain parameter in a place of another kind"),
        ("https://{host}.example.com/token", "has a host parameter in a place of another kind"),
        ("https://{host}:8443/token", "has a host parameter in a place of another kind"),
        ("https://a@{host}/token", "has a host parameter in a place of another kind"),
        ("https://{tenant}/token", "has a segment parameter in a place of another kind"),
        ("https://{tenant}.example.com/token", "has a segment parameter in a place of another kind"),
        ("https://example.com/x{tenant}/token", "has a segment parameter in a place of another kind"),
        ("https://example.com/token?t={tenant}", "has a segment parameter in a place of another kind"),
        ("http://{instance}.example.com/token", "has a subdomain parameter in a place of another kind"),
    ],
)
def test_a_placeholder_stands_where_its_kind_is_safe(address: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        provider(address)
    (error,) = refused.value.errors(include_input=False)
    assert error["msg"] == f"Value error, token_endpoint {sentence}"


@pytest.mark.parametrize("name", ["example", "default"])
def test_a_parameters_own_values_must_fit_its_kind(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} does not fit"):
        ProviderParameter.model_validate({"kind": "subdomain", "description": "x", "example": "a", name: "a/b"})


@given(value=st.text(max_size=40) | st.from_regex(r"[a-z0-9./:@?#%_{}\\-]{1,40}", fullmatch=True))
def test_no_accepted_value_leaves_its_place(value: str) -> None:
    if SUBDOMAIN.mistake(value) is None:
        parts = urlsplit(
            provider("https://{instance}.crm.example.com/token").at({"instance": value}).token_endpoint or ""
        )
        assert (parts.hostname or "").endswith(".crm.example.com")
        assert (parts.path, parts.query, parts.fragment, parts.port, parts.username) == ("/token", "", "", None, None)
    if HOST.mistake(value) is None:
        parts = urlsplit(provider("https://{host}/token").at({"host": value}).token_endpoint or "")
        assert (parts.netloc, parts.path, parts.query, parts.fragment) == (value, "/token", "", "")
    if SEGMENT.mistake(value) is None:
        parts = urlsplit(provider("https://x.example.com/{tenant}/token").at({"tenant": value}).token_endpoint or "")
        assert (parts.netloc, parts.path.split("/")) == ("x.example.com", ["", value, "token"])
        assert value not in (".", "..")


# --- names that are sent, and never sent to ---

NAMED = {
    "exchange_audience": "//iam.test/{tenant}/x",
    "subject_token_audience": "{tenant}",
    "assertion_audience": "{instance}.crm.test",
    "exchange_options": {"userProject": "{tenant}", "fixed": "1"},
}


def test_parameters_stand_anywhere_in_names_and_are_needed_like_those_of_addresses() -> None:
    known = provider("https://sts.test/token", **NAMED)
    assert set(known.open_parameters) == {"instance", "tenant"}
    filled = known.at({"tenant": "t1", "instance": "i1"})
    assert filled.exchange_audience == "//iam.test/t1/x"
    assert (filled.subject_token_audience, filled.assertion_audience) == ("t1", "i1.crm.test")
    assert filled.exchange_options == {"userProject": "t1", "fixed": "1"}
    assert filled.token_endpoint == "https://sts.test/token"
    assert filled.open_parameters == {}
    with pytest.raises(KeyError):
        known.at({"tenant": "t1"})


@pytest.mark.parametrize("text", ["{other}", "{tenant", "tenant}", "{{tenant}}", "{}"])
@pytest.mark.parametrize("name", ["exchange_audience", "subject_token_audience", "assertion_audience"])
def test_a_name_with_an_unknown_or_broken_parameter_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValidationError, match=name):
        provider("https://sts.test/token", **{name: text})
    with pytest.raises(ValidationError, match=r"exchange_options\.userProject"):
        provider("https://sts.test/token", exchange_options={"userProject": text})


@pytest.mark.parametrize("host", ["accounts.zoho.eu", "accounts.zohocloud.ca"])
def test_a_parameter_with_listed_values_takes_those(host: str) -> None:
    assert ZOHO_HOST.mistake(host) is None


@pytest.mark.parametrize("host", ["accounts.zoho.evil.test", "evil.test", "accounts.zoho.uk"])
def test_a_parameter_with_listed_values_takes_no_other_host(host: str) -> None:
    """Zoho's callback names a server: secrets go to none but the listed ones."""
    assert (ZOHO_HOST.mistake(host) or "").startswith("one of: accounts.zoho.com")
