"""The deployment at work: one exchange that must be refused, one that must succeed, and the refusal's event in the audit tables."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cab.domain.configured.clients import PrivateKeyJwt
from cab.domain.configured.deployment import Deployment
from cab.encoding import strict_json
from cab.ports import HttpAnswer, HttpClient, Unavailable
from cab.protocol.names import ACTION_TYPE, CLIENT_ASSERTION_TYPE, ID_TOKEN_TYPE, JWT_TYPE, TOKEN_EXCHANGE
from cab_ops.audit.questions import EVENTS, QuestionRefused, open_tables
from cab_ops.check_connection import Why, answer_or_words
from cab_ops.doctor.diagnosis import Diagnosis, ill, unknown, well

_TIMEOUT_S: Final = 15.0
_ARRIVES_WITHIN_S: Final = 20.0
_LOGIN_WITHIN_S: Final = 30.0


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ProbeClient(_Strict):
    client_id: str
    private_key_file: Path = Field(description="A private JWK of the client, ES256.")


class ProbeIntent(_Strict):
    connection: str
    action: str
    identifier: str
    parameters: dict[str, str | int | bool] = Field(default_factory=dict)


class Probe(_Strict):
    """An exchange that must succeed: of a test user whose account is connected."""

    front_end: ProbeClient
    agent: ProbeClient
    id_token_command: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Prints a fresh ID token of the test user for the front end."
    )
    intent: ProbeIntent


class UnreadableProbe(Exception):
    """The message says what is wrong with the file, without its content."""


def read_probe(file: Path) -> Probe:
    try:
        return Probe.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        what = (
            "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors(include_url=False))
            if isinstance(error, ValidationError)
            else "it cannot be read"
        )
        raise UnreadableProbe(f"{file}: {what}") from error


class Exercise:
    def __init__(self, deployment: Deployment, http: HttpClient, *, why: Why) -> None:
        self._deployment = deployment
        self._http = http
        self._why = why

    async def must_be_refused(self) -> tuple[list[Diagnosis], str | None]:
        """A client that signs with a key of its own making. Also the refusal's `txn`, to find its event by."""
        check, broker = "an exchange that must fail", self._deployment.broker
        agent = next(
            (
                it
                for it in self._deployment.agents
                if any(isinstance(method, PrivateKeyJwt) for method in it.authentication)
            ),
            None,
        )
        client_id = agent.client_id if agent is not None else "cab-doctor"
        forged = _client_assertion(ec.generate_private_key(ec.SECP256R1()), None, client_id, broker.sts_issuer)
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "client_id": client_id,
            "client_assertion_type": CLIENT_ASSERTION_TYPE,
            "client_assertion": forged,
            "subject_token": forged,
            "subject_token_type": JWT_TYPE,
        }
        answer, body, says = await self._post(f"{broker.sts_issuer}/token", form)
        if answer is None:
            return [ill(check, says, "look at the log of exchange_token")], None
        txn = str(body.get("txn", ""))
        if answer.status == 401 and body.get("error") == "invalid_client":
            return [well(check, "was refused")], txn
        remedy = (
            "stop the deployment: it accepts a client's forged signature"
            if answer.status == 200
            else "look at the log of exchange_token"
        )
        return [ill(check, says, remedy)], txn or None

    async def must_succeed(self, probe: Probe) -> tuple[list[Diagnosis], str | None]:
        """And the transaction of the token that it gave."""
        check, broker = "an exchange that must succeed", self._deployment.broker
        connection = self._deployment.connection_by_id.get(probe.intent.connection)
        if connection is None:
            return [
                ill(check, "the probe names a connection that is not configured", "set intent.connection right")
            ], None
        try:
            id_token = await asyncio.to_thread(_login, probe.id_token_command)
            mint, agent = _of_client(probe.front_end, broker.edge_issuer), _of_client(probe.agent, broker.sts_issuer)
        except _ProbeFailed as error:
            return [ill(check, str(error), "set the probe file right, or let its test user log in again")], None
        form = {
            "subject_token": id_token,
            "subject_token_type": ID_TOKEN_TYPE,
            "requested_token_type": JWT_TYPE,
            "audience": broker.sts_issuer,
            "may_act": probe.agent.client_id,
        }
        answer, body, says = await self._post(f"{broker.edge_issuer}/token", mint | form)
        if answer is None or answer.status != 200:
            return [ill(check, f"no assertion: {says}", _remedy(body, probe))], None
        intent = {
            "type": ACTION_TYPE,
            "actions": [probe.intent.action],
            "locations": [connection.resource],
            "identifier": probe.intent.identifier,
            "parameters": probe.intent.parameters,
        }
        form = {
            "subject_token": body["access_token"],
            "subject_token_type": JWT_TYPE,
            "resource": connection.resource,
            "authorization_details": json.dumps([intent]),
        }
        answer, body, says = await self._post(f"{broker.sts_issuer}/token", agent | form)
        if answer is None or answer.status != 200:
            return [ill(check, f"no token: {says}", _remedy(body, probe))], None
        return [well(check, "gave a token")], str(body.get("txn", "")) or None

    async def _post(self, url: str, form: dict[str, str]) -> tuple[HttpAnswer | None, dict[str, Any], str]:
        answer = await answer_or_words(self._http.post_form(url, form, timeout_s=_TIMEOUT_S), self._why)
        if isinstance(answer, str):
            return None, {}, answer
        try:
            body = strict_json.load_object(answer.body)
        except strict_json.InvalidJson:
            return answer, {}, f"HTTP {answer.status}, no JSON"
        return (
            answer,
            body,
            f"HTTP {answer.status}, {body.get('error')}, {body.get('reason_code')}, txn {body.get('txn')}",
        )


_REMEDIES: Final = {
    "client_authentication_failed": "the probe's client key is not the one in agents.yaml",
    "subject_token_invalid": "the probe's ID token is not for this front end: try it with `cab idp check --token`",
    "grant_missing": "let the probe's test user connect the account on /me",
    "grant_needs_reauth": "let the probe's test user connect the account again on /me",
    "grant_revoked": "let the probe's test user connect the account again on /me",
    "policy_denied": "`cab explain` says which rule decides on the probe's intent",
    "rate_limited": "another doctor runs, or the limits of the probe's agent are too low",
    "provider_unavailable": "look at the log of refresh_grants, then whether the connection's provider answers",
    "store_unavailable": "look at the log of the function, and whether its databases answer",
    "audit_unavailable": "look whether the topic cab-audit is there and who may publish to it",
    "idp_unavailable": "look whether the identity provider answers",
}


def _remedy(body: dict[str, Any], probe: Probe) -> str:
    known = _REMEDIES.get(str(body.get("reason_code")))
    return known or f"look up the txn with `cab audit events`, or the logs; the intent is {probe.intent.action}"


class _ProbeFailed(Exception):
    pass


def _login(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOGIN_WITHIN_S, check=True)  # noqa: S603 - the operator's own
    except (OSError, subprocess.SubprocessError) as error:
        raise _ProbeFailed(f"id_token_command failed ({type(error).__name__})") from error
    return done.stdout.strip()


def _of_client(client: ProbeClient, audience: str) -> dict[str, str]:
    try:
        key = jwt.PyJWK(json.loads(client.private_key_file.read_text("utf-8")))
    except (OSError, ValueError, jwt.PyJWTError) as error:
        raise _ProbeFailed(f"the key of {client.client_id} cannot be read") from error
    return {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": client.client_id,
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
        "client_assertion": _client_assertion(key.key, key.key_id, client.client_id, audience),
    }


def _client_assertion(key: Any, kid: str | None, client_id: str, audience: str) -> str:
    """RFC 7523 section 2.2."""
    now = int(time.time())
    claims = {"iss": client_id, "sub": client_id, "aud": audience, "iat": now, "exp": now + 60}
    headers = None if kid is None else {"kid": kid}
    return jwt.encode(claims | {"jti": secrets.token_urlsafe(16)}, key, algorithm="ES256", headers=headers)


def arrives(project: str, dataset: str, txn: str) -> Diagnosis:
    """Whether the event of a transaction can be read from the audit tables. Blocking."""
    check, within_s = "an event that must arrive", _ARRIVES_WITHIN_S
    since = datetime.now(UTC) - timedelta(hours=1)
    deadline = time.monotonic() + within_s
    try:
        with open_tables(project, dataset) as tables:
            while time.monotonic() < deadline:
                if any(tables.ask(EVENTS, since=since, txn=txn, limit=1)):
                    return well(check, "can be read from the audit tables")
                time.sleep(0.3)
    except QuestionRefused as error:
        return ill(check, str(error), "run `terraform apply`: the module makes the dataset, the table and its views")
    except Unavailable:
        return unknown(check, "BigQuery cannot be asked")
    says = f"txn {txn} is not in the audit tables after {within_s:.0f} s"
    return ill(
        check,
        says,
        "look at the subscription cab-audit-ingest and the log of ingest_audit: docs/runbooks/audit-late.md",
    )
