"""Identity providers that are configured so that no token can match, or so that one person becomes two, are warned about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.adapters.configuration.deployment_folder import ENVIRONMENT, IDENTITY_PROVIDERS, write_folder

from cab.adapters.configuration.loader import inspect_folder

ENTRA = "https://login.microsoftonline.com/8eaef023-2b34-4da1-9baa-8bc8c9d6a490/v2.0"


def warnings(folder: Path, **changes: Any) -> list[str]:
    """What is said of the first identity provider with these keys, beyond what is said anyway."""
    document = yaml.safe_load(IDENTITY_PROVIDERS)
    entry = document["identity_providers"][0]
    front_end = entry["issuer"]
    entry.update(changes)
    write_folder(folder)
    (folder / "identity_providers.yaml").write_text(yaml.safe_dump(document))
    agents = folder / "agents.yaml"
    agents.write_text(agents.read_text().replace(front_end, entry["issuer"]))
    problems = inspect_folder(folder, ENVIRONMENT).problems
    assert [problem for problem in problems if problem.severity == "error"] == []
    return [problem.message for problem in problems]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"},
            "issuer holds a placeholder: no token names it",
        ),
        ({"issuer": "https://login.microsoftonline.com/common/v2.0"}, "issuer is an endpoint for all directories"),
        (
            {"issuer": "https://login.microsoftonline.us/organizations/v2.0"},
            "issuer is an endpoint for all directories",
        ),
        (
            {"issuer": "https://login.microsoftonline.com/acme.example/v2.0"},
            "issuer does not name a directory by its id",
        ),
        ({"issuer": "https://login.microsoftonline.com"}, "issuer does not name a directory by its id"),
        ({"issuer": ENTRA.removesuffix("/v2.0")}, "issuer is that of no version of tokens"),
        ({"issuer": f"{ENTRA}/.well-known/openid-configuration"}, "issuer is the address of its discovery document"),
        ({"issuer": "https://acme.auth.eu-central-1.amazoncognito.com"}, "issuer is the domain of a user pool's login"),
        (
            {"issuer": "https://sts.windows.net/8eaef023-2b34-4da1-9baa-8bc8c9d6a490"},
            "issuer lacks the slash that v1.0",
        ),
        ({"issuer": ENTRA.replace("/v2.0", "/oauth2/v2.0")}, "issuer is the address of an endpoint"),
        ({"issuer": "https://acme.okta.com/oauth2/default/v1"}, "issuer is the address of an endpoint"),
        ({"issuer": "https://kc.test/realms/a/protocol/openid-connect/auth"}, "issuer is the address of an endpoint"),
        ({"issuer": "https://adfs.test/adfs/oauth2/authorize"}, "issuer is the address of an endpoint"),
        ({"issuer": "https://acme-admin.okta.com"}, "issuer is the address of Okta's console"),
        ({"issuer": "https://acme.eu.auth0.com"}, "issuer lacks the slash that Auth0's ends with"),
        (
            {"issuer": ENTRA.replace("microsoftonline.com", "windows.net")},
            "issuer is on another host than tokens of Entra",
        ),
        ({"issuer": ENTRA.replace("8eaef", "8EAEF")}, "issuer does not name a directory by its id"),
        ({"issuer": f"{ENTRA}/"}, "issuer is that of no version of tokens"),
        ({"issuer": ENTRA.replace("login.microsoftonline", "acme.ciamlogin")}, "issuer does not name the directory as"),
        ({"issuer": "https://acme.b2clogin.com/acme.onmicrosoft.com/v2.0/"}, "issuer does not name the directory as"),
        ({"issuer": "https://adfs.test/adfs/services/trust"}, "issuer is the address of an endpoint"),
        ({"issuer": "https://kc.test/admin/acme/console"}, "issuer is the address of an endpoint"),
        ({"issuer": "https://kc.test/realms"}, "issuer is the address of an endpoint"),
        ({"issuer": "https://acme.zitadel.cloud/oauth/v2"}, "issuer is the address of an endpoint"),
        ({"issuer": "https://cognito-idp.eu-central-1.amazonaws.com"}, "issuer is that of no user pool"),
        ({"issuer": "https://acme.okta.com/"}, "issuer is that of no authorization server of Okta's"),
        ({"issuer": "https://acme.okta.com/oauth2"}, "issuer is that of no authorization server of Okta's"),
        ({"issuer": "https://acme.onelogin.com"}, "issuer lacks the end that OneLogin's has"),
        ({"issuer": "https://auth.pingone.eu/2f8d0b5e"}, "issuer lacks the end that PingOne's has"),
        ({"issuer": "https://login.test/application/o/cab"}, "issuer lacks the slash that authentik's ends with"),
        ({"groups_claim": "$.realm_access.roles"}, "groups_claim is a path in another notation"),
        ({"groups_claim": "/realm_access/roles"}, "groups_claim is a path in another notation"),
        ({"groups_claim": "realm_access.roles[*]"}, "groups_claim is a path in another notation"),
        ({"subject_claim": "claims['oid']"}, "subject_claim is a path in another notation"),
        ({"groups_claim": "realm_access.roles", "groups": {}}, "groups maps nothing, so groups_claim is never read"),
        ({"groups_claim": "realm_access..roles"}, "groups_claim has an empty part between its dots"),
        ({"subject_claim": ".oid"}, "subject_claim has an empty part between its dots"),
        ({"subject_claim": "email"}, "`email` can change or pass to another person"),
        (
            {"issuer": "https://accounts.google.com", "groups": {"a": "sales", "b": "ops"}},
            "Google's ID tokens carry no groups",
        ),
        ({"issuer": ENTRA}, "sub differs between registrations here"),
    ],
)
def test_what_cannot_match_or_mixes_is_warned_about(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert any(found.startswith(message) for found in warnings(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"issuer": ENTRA, "subject_claim": "oid"},
        {"issuer": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"},
        {"issuer": "https://acme.okta.com/oauth2/default"},
        {"issuer": "https://acme.okta.com"},
        {"issuer": "https://acme.onelogin.com/oidc/2"},
        {"issuer": "https://auth.pingone.eu/2f8d0b5e-6d6f-4c0f-9d7b-1a2b3c4d5e6f/as"},
        {
            "issuer": "https://8eaef023-2b34-4da1-9baa-8bc8c9d6a490.ciamlogin.com/8eaef023-2b34-4da1-9baa-8bc8c9d6a490/v2.0"
        },
        {"issuer": "https://login.acme.example"},
        {"issuer": "https://login.acme.example/auth"},
        {"groups_claim": "https://acme.example/roles"},
        {"groups_claim": "realm_access.roles"},
    ],
)
def test_what_can_match_is_not_warned_about(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert warnings(tmp_path, **changes) == []
