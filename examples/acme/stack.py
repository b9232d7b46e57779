"""The organisation around the local broker: Acme's identity provider, CRM, tracker and warehouse, and its people.

`cab dev up` loads this file from the configuration folder and calls `organisation`. See `cab_dev.stack.Organisation`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from cab.domain.configured.connections import GrantKind
from cab.domain.configured.deployment import Deployment
from cab_dev.processes.supervisor import Service, StartFailed
from cab_dev.stack import OrganisationProbe
from cab_dev.stack_file import write_private
from cab_dev.trust import connections_at, trust_of
from examples.acme import services
from examples.acme.person import Person, StuckError
from examples.acme.warehouse_users import warehouse_users

DEFAULT_PORTS = {"idp": 8081, "crm": 8082, "tracker": 8083, "warehouse": 8084}
IDP_VARIABLE = re.compile(r"([A-Z][A-Z0-9_]*)_IDP_ORIGIN")
OAUTH_SERVERS = ("crm", "tracker")
NOTES_VARIABLE, NOTES_PORT = "ACME_NOTES_ORIGIN", 8085  # an MCP server, for folders that declare it
ROOT = Path(services.__file__).resolve().parents[3]  # not of this file, which a copied folder holds too
WHO_CONNECTS = ("alice", "bob")  # carol has no grant, for the demo's sake


def organisation(take_port: Callable[[int], int], declared: Sequence[str] = ()) -> AcmeOrganisation:
    """Acme on its usual ports, or on free ones where those are taken.

    `declared` are the variables of a folder that is not Acme's: each `NAME_IDP_ORIGIN` gets an identity provider of its own,
    with the same people, and `ACME_NOTES_ORIGIN` the notes.
    """
    ports = {name: take_port(port) for name, port in DEFAULT_PORTS.items()}
    if NOTES_VARIABLE in declared:
        ports["notes"] = take_port(NOTES_PORT)
    names = [
        match.group(1) for name in declared if (match := IDP_VARIABLE.fullmatch(name)) and name != "ACME_IDP_ORIGIN"
    ]
    more = {f"{name.lower()}_idp": take_port(0) for name in names}
    return AcmeOrganisation(ports | more, idps={f"{name}_IDP_ORIGIN": f"{name.lower()}_idp" for name in names})


class _Account(NamedTuple):
    """What a person may connect, and which of the broker's identity providers they log in at."""

    idp_index: int
    connection: str


class AcmeOrganisation:
    def __init__(self, ports: Mapping[str, int], *, idps: Mapping[str, str] | None = None) -> None:
        self.ports = dict(ports)
        self._idps = {"ACME_IDP_ORIGIN": "idp", **(idps or {})}
        self._oauth_servers = (*OAUTH_SERVERS, *(["notes"] if "notes" in self.ports else []))
        self._accounts: list[_Account] = []

    def _origin(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def variables(self) -> dict[str, str]:
        names = dict.fromkeys((*DEFAULT_PORTS, *self._oauth_servers))
        acme = {f"ACME_{name.upper()}_ORIGIN": self._origin(name) for name in names}
        return acme | {variable: self._origin(service) for variable, service in self._idps.items()}

    @property
    def accounts(self) -> tuple[str, ...]:
        return ()

    def prepare(self, deployment: Deployment, *, secrets: Mapping[str, str], folder: Path) -> None:
        """Register the broker and the front end as clients of the identity provider, the CRM and the tracker, which believe the
        broker about users where a connection says so.
        """
        origin = deployment.broker.origin
        idps = {self._origin(service): service for service in self._idps.values()}
        clients: dict[str, list[dict[str, object]]] = {name: [] for name in (*idps.values(), *self._oauth_servers)}
        for front_end in deployment.front_ends:
            if front_end.identity_provider not in idps:
                continue  # somebody else's: its people log in there
            clients[idps[front_end.identity_provider]].append(
                {
                    "client_id": front_end.idp_client_id,
                    "name": "Acme web",
                    "redirect_uris": ["http://127.0.0.1:*/cb", "http://127.0.0.1:*/callback"],
                }
            )
        for provider in deployment.identity_providers:
            if provider.issuer not in idps:
                continue
            service = idps[provider.issuer]
            clients[service].append(
                _confidential(provider.login.client_id, secrets[provider.login.client_secret.secret], folder, service)
                | {"redirect_uris": [f"{origin}/login/callback"]}
            )
        for server in self._oauth_servers:
            for connection in connections_at(deployment, self._origin(server)):
                if connection.client_id is None or connection.client_secret is None:
                    continue
                secret = secrets[connection.client_secret.secret]
                clients[server].append(
                    _confidential(connection.client_id, secret, folder, connection.id)
                    | {"redirect_uris": [f"{origin}/connect/callback/{connection.id}"]}
                )
            trust = {
                "issuers": trust_of(deployment, self._origin(server), secrets),
                "subjects": warehouse_users(self._origin("idp")),
            }
            write_private(folder / f"{server}-trust.json", json.dumps(trust, indent=2) + "\n")
        self._accounts = list(self._accounts_in(deployment, idps))
        reporters = (one for one in deployment.agents if self._origin("warehouse") in one.reports_as)
        own_client = {"client_id": next((one.client_id for one in reporters), None)}
        write_private(folder / "warehouse-client.json", json.dumps(own_client) + "\n")
        for name, entries in clients.items():
            write_private(folder / f"{name}-clients.json", json.dumps({"clients": entries}, indent=2) + "\n")

    def _accounts_in(self, deployment: Deployment, idps: Collection[str]) -> Iterator[_Account]:
        """Every connection with a consent screen here, with the first identity provider here whose people may use it."""
        for server in self._oauth_servers:
            for connection in connections_at(deployment, self._origin(server)):
                for index, provider in enumerate(deployment.identity_providers):
                    may = provider.issuer in idps and provider.tenant in connection.tenants
                    if may and connection.grant_kind is GrantKind.AUTHORIZATION_CODE:
                        yield _Account(index, connection.id)
                        break

    def services(self, *, origin: str, environment: Mapping[str, str], folder: Path, keys: Path) -> tuple[Service, ...]:
        arguments = {
            **{
                name: ("--clients", str(folder / f"{name}-clients.json"), "--client-keys", str(keys))
                for name in self._idps.values()
            },
            **{
                name: (
                    *("--clients", str(folder / f"{name}-clients.json"), "--state", str(folder / f"{name}.sqlite")),
                    *("--trust", str(folder / f"{name}-trust.json")),
                )
                for name in self._oauth_servers
            },
            "warehouse": (
                *("--issuer", f"{origin}/oauth2", "--idp-issuer", self._origin("idp")),
                *("--client", str(folder / "warehouse-client.json"), "--client-keys", str(keys)),
            ),
        }
        return tuple(
            Service(
                name=name,
                command=(
                    *(sys.executable, "-m", f"examples.acme.services.{'idp' if name.endswith('idp') else name}"),
                    *("--port", str(self.ports[name]), "--origin", self._origin(name), *more),
                ),
                environment=environment,
                directory=ROOT,
                port=self.ports[name],
                ready=f"{self._origin(name)}/health",
                url=self._origin(name),
                needs=("configuration",),
            )
            for name, more in arguments.items()
        )

    @property
    def probe(self) -> OrganisationProbe | None:
        return OrganisationProbe(
            user=WHO_CONNECTS[0],
            agent="sales-assistant",
            intent={
                "connection": "crm",
                "action": "crm.opportunity.list",
                "identifier": "opportunity/*",
                "parameters": {"account": "acme"},
            },
        )

    def connect(self, origin: str) -> str:
        """Alice and Bob each connect their accounts at the CRM and the tracker: login, consent, callback, as in a browser."""
        if not self._accounts:
            return "nobody: no connection leads to a consent screen here"
        with ThreadPoolExecutor(len(WHO_CONNECTS)) as pool:
            for _ in pool.map(lambda login: _connect_all(login, origin, self._accounts), WHO_CONNECTS):
                pass
        return f"{' and '.join(WHO_CONNECTS)} to {' and '.join(account.connection for account in self._accounts)}"


def _connect_all(login: str, origin: str, accounts: Iterable[_Account]) -> None:
    for index, of_one_idp in groupby(sorted(accounts, key=lambda one: one.idp_index), key=lambda one: one.idp_index):
        person = Person(login)
        try:
            person.log_in(f"{origin}/login?{urlencode({'idp': index, 'to': '/me'})}")
            for account in of_one_idp:
                page = person.connect(f"{origin}/connect?connection={account.connection}")
                if page.status != 200:
                    raise StartFailed(
                        f"{login} cannot connect {account.connection}: {page.address} answered {page.status}."
                    )
        except StuckError as exc:
            raise StartFailed(f"{login} cannot connect an account: {exc}.") from exc
        finally:
            person.close()


def _confidential(client_id: str, secret: str, folder: Path, name: str) -> dict[str, object]:
    """A client entry whose secret lies in a file of its own."""
    path = folder / f"{name}.secret"
    write_private(path, secret)
    return {"client_id": client_id, "name": "Acme assistant (CAB)", "client_secret_file": str(path)}
