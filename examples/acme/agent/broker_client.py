"""How an agent gets a credential for one action: an RFC 8693 exchange that carries the intent.

Plain `requests_oauth2client`: authentication with `private_key_jwt`, the intent as `authorization_details`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from requests_oauth2client import OAuth2Client, PrivateKeyJwt
from requests_oauth2client.exceptions import EndpointError

JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A downstream system, as the agent's operator configured it."""

    audience: str
    resource: str
    api_base: str


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What the agent is about to do: declared before, compared by the broker with what the user asked for."""

    connection: Connection
    action: str
    identifier: str
    parameters: Mapping[str, str | int | bool] = field(default_factory=dict)
    reason: str = ""

    def as_detail(self) -> dict[str, Any]:
        detail: dict[str, Any] = {
            "type": "cab_action",
            "actions": [self.action],
            "locations": [self.connection.resource],
            "identifier": self.identifier,
            "parameters": dict(self.parameters),
        }
        return detail | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A short-lived token for one intent. Shown without the token."""

    access_token: str = field(repr=False)
    expires_in: int
    scope: str
    txn: str


class Refusal(Exception):
    """The broker's answer when there is no token. `interaction_uri` is where the user can change that, if they can."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(answer["reason_code"])
        self.error = str(answer["error"])
        self.reason_code = str(answer["reason_code"])
        self.txn = str(answer["txn"])
        self.interaction_uri: str | None = answer.get("interaction_uri")


class BrokerClient:
    """One agent at one broker."""

    def __init__(self, *, issuer: str, client_id: str, private_key_file: str | Path) -> None:
        key = json.loads(Path(private_key_file).read_text("utf-8"))
        self._client = OAuth2Client(
            token_endpoint=f"{issuer}/token",
            issuer=issuer,
            auth=PrivateKeyJwt(client_id, key, alg="ES256", aud=issuer),
            testing=True,  # the library's word for: allow http to the local stack
        )

    def call_token(self, assertion: str, tools: str) -> str:
        """Exchange the user's assertion for a token that is good for the broker's own tools only. Raises: Refusal."""
        try:
            token = self._client.token_exchange(subject_token=assertion, subject_token_type=JWT_TYPE, resource=tools)
        except EndpointError as exc:
            raise Refusal(exc.response.json()) from exc
        return token.access_token

    def credential(self, assertion: str, intent: Intent) -> Credential:
        """Exchange the user's assertion for a token that is good for `intent` only. Raises: Refusal."""
        try:
            token = self._client.token_exchange(
                subject_token=assertion,
                subject_token_type=JWT_TYPE,
                resource=intent.connection.resource,
                authorization_details=json.dumps([intent.as_detail()]),
            )
        except EndpointError as exc:
            raise Refusal(exc.response.json()) from exc
        return Credential(
            access_token=token.access_token,
            expires_in=int(token.expires_in or 0),
            scope=token.scope or "",
            txn=str(token.kwargs["txn"]),
        )
