"""How a connection fills the open places of a provider's addresses, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.configuration.deployment_folder import CONNECTIONS, check, deployment_of, found, line_of, replaced

SERVICENOW = replaced(CONNECTIONS, "    provider: own-crm\n", "    provider: servicenow\n")
PARAMETERS = "    provider_parameters: "
BEFORE = "    tenants: [acme]\n"


def with_parameters(values: str, connections: str = SERVICENOW) -> str:
    return replaced(connections, BEFORE, f"{PARAMETERS}{values}\n{BEFORE}")


def test_a_connection_sees_its_providers_addresses_filled(tmp_path: Path) -> None:
    deployment = deployment_of(tmp_path, connections=with_parameters("{instance: acmeprod}"))
    provider = deployment.provider_of(deployment.connection_by_id["crm"])
    assert provider.token_endpoint == "https://acmeprod.service-now.com/oauth_token.do"
    assert provider.authorization_endpoint == "https://acmeprod.service-now.com/oauth_auth.do"


def test_a_default_needs_no_value_and_gives_way_to_one(tmp_path: Path) -> None:
    gitlab = replaced(CONNECTIONS, "    provider: own-crm\n", "    provider: gitlab\n")
    deployment = deployment_of(tmp_path / "default", connections=gitlab)
    assert deployment.provider_of(deployment.connections[0]).issuer == "https://gitlab.com"
    own = deployment_of(tmp_path / "own", connections=with_parameters("{host: git.acme.test}", gitlab))
    assert own.provider_of(own.connections[0]).issuer == "https://git.acme.test"


def test_an_own_provider_inherits_parameters_with_the_addresses(tmp_path: Path) -> None:
    okta = replaced(
        replaced(CONNECTIONS, "extends: generic-oauth2", "extends: okta"),
        "    token_endpoint: https://login.crm.test/token\n",
        "",
    )
    deployment = deployment_of(tmp_path, connections=with_parameters("{domain: acme.okta.com}", okta))
    provider = deployment.provider_of(deployment.connections[0])
    assert provider.authorization_endpoint == "https://login.crm.test/authorize"
    assert provider.token_endpoint == "https://acme.okta.com/oauth2/v1/token"


def test_own_addresses_everywhere_leave_nothing_to_fill(tmp_path: Path) -> None:
    extended = replaced(
        CONNECTIONS,
        "extends: generic-oauth2\n",
        "extends: servicenow\n",
    )
    inspection = check(tmp_path, connections=extended)
    assert inspection.valid


def test_a_missing_value_is_named_with_an_example(tmp_path: Path) -> None:
    inspection = check(tmp_path, connections=SERVICENOW)
    (problem,) = [item for item in inspection.problems if "parameter" in item.message]
    assert problem.message == "provider `servicenow` needs the parameter `instance`"
    assert problem.remedy.startswith("add `instance: acmeprod` with your own value: ")
    assert not inspection.valid


@pytest.mark.parametrize(
    "value", ["acme.evil.test/", "acme@evil", "evil.test#", "ACME", "'a b'", "''", "https://acme", "..", '"a\\nb"']
)
def test_a_value_that_could_lead_elsewhere_is_refused_and_not_quoted(tmp_path: Path, value: str) -> None:
    text = with_parameters(f"{{instance: {value}}}")
    inspection = check(tmp_path, connections=text)
    (problem,) = found(inspection, "connections.yaml", line_of(text, "provider_parameters"))
    assert problem.message == "the value of `instance` is not usable"
    assert problem.remedy == "write small letters, digits and hyphens, parts joined by dots"
    assert not inspection.valid


def test_a_parameter_the_provider_does_not_have_is_refused(tmp_path: Path) -> None:
    text = with_parameters("{instance: acmeprod, instanse: acme}")
    (problem,) = found(check(tmp_path, connections=text), "connections.yaml", line_of(text, "provider_parameters"))
    assert problem.message == "provider `servicenow` has no parameter `instanse`"
    assert problem.remedy == "did you mean `instance`?"


def test_an_address_with_an_undeclared_place_is_refused_where_it_stands(tmp_path: Path) -> None:
    text = replaced(CONNECTIONS, "https://login.crm.test/token", "https://{region}.crm.test/token")
    (problem,) = found(check(tmp_path, connections=text), "connections.yaml", line_of(text, "token_endpoint"))
    assert problem.remedy == "token_endpoint names a parameter that `parameters` does not declare"
