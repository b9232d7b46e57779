"""Keycloak with three realms around the broker: people of two kinds, and files; a proxy before the token endpoint of the files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.real import keycloak
from tests.real.keycloak import Admin

from cab.domain.configured.deployment import Deployment
from cab_dev.processes.supervisor import Service
from cab_dev.stack_file import write_private

PASSWORD = "correct horse"
WIDE_CLAIMS = 35  # of 300 characters each: a token of 16,000 characters, of the 16,384 that fit


def organisation(take_port: Callable[[int], int]) -> KeycloakOrganisation:
    return KeycloakOrganisation({name: take_port(0) for name in ("keycloak", "tokens", "clients")})


class KeycloakOrganisation:
    def __init__(self, ports: Mapping[str, int]) -> None:
        self.ports = dict(ports)
        self._realms: list[dict[str, Any]] = []

    def _origin(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def variables(self) -> dict[str, str]:
        return {
            "KEYCLOAK_ORIGIN": self._origin("keycloak"),
            "KEYCLOAK_TOKENS_ORIGIN": self._origin("tokens"),
            "CLIENTS_ORIGIN": self._origin("clients"),
        }

    @property
    def accounts(self) -> tuple[str, ...]:
        return ()

    @property
    def probe(self) -> None:
        return None

    def prepare(self, deployment: Deployment, *, secrets: Mapping[str, str], folder: Path) -> None:
        origin = deployment.broker.origin
        write_private(folder / "no-clients.json", json.dumps({"clients": []}))
        web = {"clientId": "web", "publicClient": True, "redirectUris": ["http://127.0.0.1:9/cb"]}
        in_id_token = {"id.token.claim": "true", "access.token.claim": "true"}
        paths = _mapper("groups", "oidc-group-membership-mapper", **{"claim.name": "groups", "full.path": "true"})
        roles = _mapper(
            "roles",
            "oidc-usermodel-realm-role-mapper",
            **{"claim.name": "realm_access.roles", "multivalued": "true", "jsonType.label": "String"},
        )
        for mapper in (paths, roles):
            mapper["config"] |= in_id_token
        alice = _user("alice", "Alice Moreau")
        self._realms = [
            _realm(
                "staff",
                clients=[
                    web | {"protocolMappers": [paths]},
                    _confidential("cab", secrets["cab-idp-staff"], f"{origin}/login/callback")
                    | {"protocolMappers": [paths]},
                ],
                groups=[{"name": "sales"}],
                users=[alice | {"groups": ["/sales"]}, _user("dave", "Dave Ortiz")],
            ),
            _realm(
                "plant",
                clients=[
                    web | {"protocolMappers": [roles]},
                    _confidential("cab", secrets["cab-idp-plant"], f"{origin}/login/callback/plant"),
                ],
                roles={"realm": [{"name": "seller"}]},
                users=[_user("petra", "Petra Weiss") | {"realmRoles": ["seller"]}],
            ),
            _realm(
                "files",
                clients=[_confidential("cab-files", secrets["cab-provider-files"], f"{origin}/connect/callback/files")],
                # Users that come with their realm have no default roles; offline_access is one of those.
                users=[
                    user | {"realmRoles": ["default-roles-files"]} for user in (alice, _user("petra", "Petra Weiss"))
                ],
                revokeRefreshToken=True,
                refreshTokenMaxReuse=0,
            ),
        ]

    def services(self, *, origin: str, environment: Mapping[str, str], folder: Path, keys: Path) -> tuple[Service, ...]:
        root = keycloak.ROOT

        def python(name: str, module: str, *arguments: str) -> Service:
            return Service(
                name=name,
                command=(sys.executable, "-m", module, "--port", str(self.ports[name]), *arguments),
                environment=environment,
                directory=root,
                port=self.ports[name],
                ready=f"{self._origin(name)}/health",
                url=self._origin(name),
                needs=("configuration",),
            )

        clients = ("--clients", str(folder / "no-clients.json"), "--client-keys", str(keys))
        server = Service(
            name="keycloak",
            command=keycloak.command(self.ports["keycloak"]),
            environment=keycloak.environment() | {"HOME": environment["HOME"]},
            directory=root,
            port=self.ports["keycloak"],
            ready=f"{self._origin('keycloak')}/realms/master",
            url=self._origin("keycloak"),
            ready_within_s=100.0,
        )
        return (
            server,
            python("tokens", "tests.real.fault_proxy", "--upstream", self._origin("keycloak")),
            python(
                "clients",
                "examples.acme.services.idp",
                *("--origin", self._origin("clients"), *clients),
            ),
        )

    def connect(self, origin: str) -> str:
        """Make the realms. Nobody connects an account: that is what is to be tried."""
        admin = Admin(self._origin("keycloak"))
        for realm in self._realms:
            admin("POST", "", realm)
        for name in ("file.read", "report.read"):
            scope: dict[str, Any] = {"name": name, "protocol": "openid-connect"}
            scope["attributes"] = {"include.in.token.scope": "true"}
            if name == "report.read":
                scope["protocolMappers"] = [
                    _mapper(
                        f"wide-{number}",
                        "oidc-hardcoded-claim-mapper",
                        **{
                            "claim.name": f"wide_{number}",
                            "claim.value": "x" * 300,
                            "jsonType.label": "String",
                            "access.token.claim": "true",
                            "id.token.claim": "false",
                        },
                    )
                    for number in range(WIDE_CLAIMS)
                ]
            admin("POST", "/files/client-scopes", scope)
        (client,) = admin("GET", "/files/clients?clientId=cab-files")
        for scope in admin("GET", "/files/client-scopes"):
            if scope["name"] in ("file.read", "report.read"):
                admin("PUT", f"/files/clients/{client['id']}/optional-client-scopes/{scope['id']}")
        return "nobody; three realms made"


def _realm(name: str, **more: Any) -> dict[str, Any]:
    return {"realm": name, "enabled": True, "sslRequired": "none", **more}


def _confidential(client_id: str, secret: str, redirect_uri: str) -> dict[str, Any]:
    return {"clientId": client_id, "secret": secret, "publicClient": False, "redirectUris": [redirect_uri]}


def _mapper(name: str, kind: str, **config: str) -> dict[str, Any]:
    return {"name": name, "protocol": "openid-connect", "protocolMapper": kind, "config": dict(config)}


def _user(username: str, name: str) -> dict[str, Any]:
    first, last = name.split()
    return {
        "username": username,
        "enabled": True,
        "firstName": first,
        "lastName": last,
        "email": f"{username}@acme.example",
        "emailVerified": True,
        "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
    }
