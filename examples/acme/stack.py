"""The organisation around the local broker: Acme's identity provider, CRM, tracker and warehouse, and its people.

`cab dev up` loads this file from the configuration folder and calls `organisation`. See `cab_dev.stack.Organisation`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cab.domain.deployment import Deployment
from cab_dev.stack_file import write_private
from cab_dev.supervisor import Service, StartFailed
from cab_dev.trust import connections_at, trust_of
from examples.acme import services
from examples.acme.person import Person, StuckError
from examples.acme.warehouse_users import warehouse_users

DEFAULT_PORTS = {"idp": 8081, "crm": 8082, "tracker": 8083, "warehouse": 8084}
OAUTH_SERVERS = ("crm", "tracker")
ROOT = Path(services.__file__).resolve().parents[3]  # not of this file, which a copied folder holds too
WHO_CONNECTS = ("alice", "bob")  # carol has no grant, for the demo's sake


def organisation(take_port: Callable[[int], int]) -> AcmeOrganisation:
    """Acme on its usual ports, or on free ones where those are taken."""
    return AcmeOrganisation({name: take_port(port) for name, port in DEFAULT_PORTS.items()})


class AcmeOrganisation:
    def __init__(self, ports: Mapping[str, int]) -> None:
        self.ports = dict(ports)

    def _origin(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def variables(self) -> dict[str, str]:
        return {f"ACME_{name.upper()}_ORIGIN": self._origin(name) for name in self.ports}

    @property
    def accounts(self) -> tuple[str, ...]:
        return ()

    def prepare(self, deployment: Deployment, *, secrets: Mapping[str, str], folder: Path) -> None:
        """Register the broker and the front end as clients of the identity provider, the CRM and the tracker, which believe the
        broker about users where a connection says so.
        """
        origin = deployment.broker.origin
        clients: dict[str, list[dict[str, object]]] = {name: [] for name in ("idp", *OAUTH_SERVERS)}
        for front_end in deployment.front_ends:
            clients["idp"].append(
                {
                    "client_id": front_end.idp_client_id,
                    "name": "Acme web",
                    "redirect_uris": ["http://127.0.0.1:*/cb", "http://127.0.0.1:*/callback"],
                }
            )
        for provider in deployment.identity_providers:
            clients["idp"].append(
                _confidential(provider.login.client_id, secrets[provider.login.client_secret.secret], folder, "idp")
                | {"redirect_uris": [f"{origin}/login/callback"]}
            )
        for server in OAUTH_SERVERS:
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
        for name, entries in clients.items():
            write_private(folder / f"{name}-clients.json", json.dumps({"clients": entries}, indent=2) + "\n")

    def services(self, *, origin: str, environment: Mapping[str, str], folder: Path, keys: Path) -> tuple[Service, ...]:
        arguments = {
            "idp": ("--clients", str(folder / "idp-clients.json"), "--client-keys", str(keys)),
            **{
                name: (
                    *("--clients", str(folder / f"{name}-clients.json"), "--state", str(folder / f"{name}.sqlite")),
                    *("--trust", str(folder / f"{name}-trust.json")),
                )
                for name in OAUTH_SERVERS
            },
            "warehouse": ("--issuer", f"{origin}/oauth2", "--idp-issuer", self._origin("idp")),
        }
        return tuple(
            Service(
                name=name,
                command=(
                    *(sys.executable, "-m", f"examples.acme.services.{name}"),
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

    def connect(self, origin: str) -> str:
        """Alice and Bob each connect their CRM and tracker accounts: login, consent, callback, as in a browser."""
        with ThreadPoolExecutor(len(WHO_CONNECTS)) as pool:
            for _ in pool.map(lambda login: _connect_all(login, origin), WHO_CONNECTS):
                pass
        return f"{' and '.join(WHO_CONNECTS)} to {' and '.join(OAUTH_SERVERS)}"


def _connect_all(login: str, origin: str) -> None:
    person = Person(login)
    try:
        for connection in OAUTH_SERVERS:
            page = person.connect(f"{origin}/connect?connection={connection}")
            if page.status != 200:
                raise StartFailed(f"{login} cannot connect {connection}: {page.address} answered {page.status}.")
    except StuckError as exc:
        raise StartFailed(f"{login} cannot connect an account: {exc}.") from exc
    finally:
        person.close()


def _confidential(client_id: str, secret: str, folder: Path, name: str) -> dict[str, object]:
    """A client entry whose secret lies in a file of its own."""
    path = folder / f"{name}.secret"
    write_private(path, secret)
    return {"client_id": client_id, "name": "Acme assistant (CAB)", "client_secret_file": str(path)}
