"""Plays the front end of the running stack: logs a person in at the identity provider, mints assertions for them."""

from __future__ import annotations

import json
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import requests

from cab.protocol.names import CLIENT_ASSERTION_TYPE, ID_TOKEN_TYPE, JWT_TYPE, TOKEN_EXCHANGE
from cab_dev.stack_file import FrontEndEntry, NoStack, StackFile

_CLIENT_ASSERTION_LIFE_S = 60
_TIMEOUT_S = 15.0


class FrontEndFailed(Exception):
    """No stack, no such person, or the broker refused. The text is a sentence without tokens."""


def client_assertion(private_key_file: str | Path, *, client_id: str, audience: str) -> str:
    """A fresh `private_key_jwt` (RFC 7523 section 2.2), signed with the JWK in the file."""
    key = jwt.PyJWK(json.loads(Path(private_key_file).read_text("utf-8")))
    now = int(time.time())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": now,
        "exp": now + _CLIENT_ASSERTION_LIFE_S,
        "jti": secrets.token_urlsafe(16),
    }
    return jwt.encode(claims, key.key, algorithm="ES256", headers={"kid": key.key_id})


@dataclass(frozen=True)
class FrontEndSession:
    """A front end of one stack: the first one unless `client_id` names another."""

    stack: StackFile
    client_id: str | None = None

    @classmethod
    def at(cls, state_dir: Path, client_id: str | None = None) -> FrontEndSession:
        try:
            return cls(StackFile.read(state_dir), client_id)
        except NoStack as exc:
            raise FrontEndFailed(str(exc)) from exc

    @property
    def entry(self) -> FrontEndEntry:
        """Raises: FrontEndFailed."""
        name = self.client_id or self.stack.front_end.client_id
        if name not in self.stack.front_ends:
            raise FrontEndFailed(f"There is no front end {name}. Choose from: {', '.join(self.stack.front_ends)}.")
        return self.stack.front_ends[name]

    def id_token(self, user: str) -> str:
        """Log in as `user`. Raises: FrontEndFailed."""
        from cab_dev.stack import ROOT

        if str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))
        from examples.acme.people import PEOPLE
        from examples.acme.person import Person, StuckError

        idp = self.entry.idp
        person = Person(user)
        try:
            return person.id_token(idp_issuer=idp.issuer, client_id=idp.client_id)
        except (StuckError, KeyError, requests.RequestException) as exc:
            own = {service.url for service in self.stack.services.values()}
            if user not in PEOPLE and idp.issuer in own:
                raise FrontEndFailed(f"There is nobody called {user}. Choose from: {', '.join(PEOPLE)}.") from exc
            raise FrontEndFailed(f"The login of {user} at {idp.issuer} failed ({type(exc).__name__}).") from exc
        finally:
            person.close()

    def assertion(self, user: str, *, agent: str, task_json: bytes | None = None) -> str:
        """Mint for `user`, usable by `agent`. `task_json`: one `cab_task` object, or the whole list. Raises: FrontEndFailed."""
        form = self.mint_form(self.id_token(user), agent=agent, task_json=task_json)
        return _token(f"{self.stack.edge_issuer}/token", form)

    def call_token(self, user: str, *, agent: str, task_json: bytes | None = None) -> str:
        """What `agent` presents at `ORIGIN/mcp` and `/tools/call`, acting for `user`. Raises: FrontEndFailed."""
        entry = self.stack.agents.get(agent)
        if entry is None or entry.private_key_file is None:
            raise FrontEndFailed(f"There is no agent {agent} with a key. Choose from: {', '.join(self.stack.agents)}.")
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": self.assertion(user, agent=agent, task_json=task_json),
            "subject_token_type": JWT_TYPE,
            "resource": f"{self.stack.origin}/mcp",
            "client_assertion_type": CLIENT_ASSERTION_TYPE,
            "client_assertion": client_assertion(
                entry.private_key_file, client_id=entry.client_id, audience=self.stack.issuer
            ),
        }
        return _token(f"{self.stack.issuer}/token", form)

    def mint_form(self, id_token: str, *, agent: str, task_json: bytes | None = None) -> dict[str, str]:
        """The parameters of `POST /edge/token`, with a fresh client assertion. Raises: FrontEndFailed."""
        front_end = self.entry
        if front_end.private_key_file is None:
            raise FrontEndFailed("The front end has no key here.")
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": id_token,
            "subject_token_type": ID_TOKEN_TYPE,
            "requested_token_type": JWT_TYPE,
            "audience": self.stack.issuer,
            "may_act": agent,
            "client_id": front_end.client_id,
            "client_assertion_type": CLIENT_ASSERTION_TYPE,
            "client_assertion": client_assertion(
                front_end.private_key_file, client_id=front_end.client_id, audience=self.stack.edge_issuer
            ),
        }
        if task_json is not None:
            form["authorization_details"] = json.dumps(_details(task_json))
        return form


def _token(endpoint: str, form: dict[str, str]) -> str:
    try:
        answer = requests.post(endpoint, data=form, timeout=_TIMEOUT_S)
        body = answer.json()
    except (requests.RequestException, ValueError) as exc:
        raise FrontEndFailed(f"The broker did not answer as it should ({type(exc).__name__}).") from exc
    if answer.status_code != 200:
        reason = f"{body.get('error')}, {body.get('reason_code')}, txn {body.get('txn')}"
        raise FrontEndFailed(
            f"The broker refused with {answer.status_code}: {reason}. {body.get('error_description', '')}".rstrip()
        )
    return str(body["access_token"])


def _details(task_json: bytes) -> list[Any]:
    try:
        document = json.loads(task_json)
    except ValueError as exc:
        raise FrontEndFailed("The task is not valid JSON.") from exc
    return document if isinstance(document, list) else [document]
