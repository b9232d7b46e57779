"""What Cloud Run asks before a function sees a request: does it come from where it may, and may its caller invoke the service?

The load balancer's requests pass as such. Every other request comes from whom its ID token names: a function, Pub/Sub's
pushes, the scheduler, an operator. Whether that is from inside the network is in the same table as what they may do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import ClientError, ClientSession, ClientTimeout
from jwt.algorithms import RSAAlgorithm

from cab_dev.permissions import service_name
from gcp_emulators.permissions.table import Table

_KEYS_WITHIN_S = 3.0
LOAD_BALANCER = "load_balancer"


@dataclass(frozen=True)
class Refusal:
    status: int
    text: str


NOT_REACHED = Refusal(404, "The requested URL was not found on this server.")
NOT_PERMITTED = Refusal(403, "Your client does not have permission to get this URL from this server.")
BAD_TOKEN = Refusal(401, "The access token could not be verified.")


@dataclass
class Doors:
    """The doors of one project's services. `issuer` signs Google's ID tokens, and serves its keys at `/jwks`."""

    table: Table
    project: str
    issuer: str
    _keys: dict[str, Any] = field(default_factory=dict, repr=False)

    def from_load_balancer(self, function: str) -> Refusal | None:
        """Why a request that came through the load balancer is refused."""
        name = service_name(self.project, function)
        if not self.table.permits(LOAD_BALANCER, "network.receive", name):
            return NOT_REACHED
        return None if self.table.permits("allUsers", "run.routes.invoke", name) else NOT_PERMITTED

    async def from_inside(self, function: str, audience: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request straight to the service is refused."""
        name = service_name(self.project, function)
        caller = await self._caller(headers.get("Authorization", ""), audience)
        inside = caller is not None and self.table.permits(caller, "network.send", "network")
        if not self.table.permits("network" if inside else "outside", "network.receive", name):
            return NOT_REACHED
        if self.table.permits(caller or "allUsers", "run.routes.invoke", name):
            return None
        return NOT_PERMITTED if caller else BAD_TOKEN

    async def _caller(self, authorization: str, audience: str) -> str | None:
        """The identity that an ID token for this service names; None when there is none."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                return None
            claims = jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=self.issuer)
        except jwt.PyJWTError:
            return None
        name, _, domain = str(claims.get("email", "")).partition("@")
        return name.replace("-", "_") if domain == f"{self.project}.iam.gserviceaccount.com" else None

    async def _key(self, key_id: str) -> Any:
        if key_id not in self._keys:
            try:
                async with (
                    ClientSession(timeout=ClientTimeout(total=_KEYS_WITHIN_S)) as session,
                    session.get(f"{self.issuer}/jwks") as answer,
                ):
                    found = json.loads(await answer.read())["keys"]
            except (TimeoutError, ClientError, ValueError, KeyError):
                return None
            self._keys = {entry["kid"]: RSAAlgorithm.from_jwk(entry) for entry in found}
        return self._keys.get(key_id)
