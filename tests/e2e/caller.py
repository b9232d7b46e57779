"""Calls the running broker over plain HTTP, so that tests see every status, header and member as a client does."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import requests
from tests.running_stack import Stack

from cab.protocol.names import CLIENT_ASSERTION_TYPE, JWT_TYPE, TOKEN_EXCHANGE
from cab_dev.front_end import client_assertion

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Caller:
    """An agent at one stack, acting for one user."""

    stack: Stack
    agent: str = "sales-assistant"

    def assertion(self, user: str, task: dict[str, Any] | None = None) -> str:
        raw = json.dumps(task).encode() if task else None
        return self.stack.front_end.assertion(user, agent=self.agent, task_json=raw)

    def client(self) -> dict[str, str]:
        file = self.stack.file
        key = file.agents[self.agent].private_key_file
        assert key is not None
        signed = client_assertion(key, client_id=self.agent, audience=file.issuer)
        return {"client_assertion_type": CLIENT_ASSERTION_TYPE, "client_assertion": signed}

    def exchange_form(self, assertion: str, action: str, identifier: str, **parameters: Any) -> dict[str, str]:
        connection = self.stack.file.connections[action.partition(".")[0]]
        intent = {
            "type": "cab_action",
            "actions": [action],
            "locations": [connection.resource],
            "identifier": identifier,
            "parameters": parameters,
        }
        return {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": assertion,
            "subject_token_type": JWT_TYPE,
            "resource": connection.resource,
            "authorization_details": json.dumps([intent]),
            **self.client(),
        }

    def exchange(self, assertion: str, action: str, identifier: str, **parameters: Any) -> Answer:
        return self.post("/oauth2/token", self.exchange_form(assertion, action, identifier, **parameters))

    def post(self, path: str, form: dict[str, str]) -> Answer:
        begun = time.monotonic()
        response = requests.post(self.stack.file.origin + path, data=form, timeout=TIMEOUT_S)
        return Answer(response, time.monotonic() - begun)


@dataclass(frozen=True)
class Answer:
    response: requests.Response
    took_s: float

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def body(self) -> dict[str, Any]:
        content: dict[str, Any] = self.response.json()
        return content

    @property
    def reason(self) -> str | None:
        reason: str | None = self.body.get("reason_code")
        return reason

    def assert_unavailable(self, *reasons: str, within_s: float) -> None:
        """A standard `temporarily_unavailable` in time, with Retry-After and no token."""
        assert self.status == 503, (self.status, self.reason)
        assert self.body["error"] == "temporarily_unavailable"
        assert self.reason in reasons
        assert int(self.response.headers["Retry-After"]) >= 1
        assert "access_token" not in self.body
        assert self.took_s < within_s
