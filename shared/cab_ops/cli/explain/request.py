"""The file REQUEST.json of `cab explain`: one exchange as a developer or an auditor has it, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from cab.adapters.configuration.problems import choose_from
from cab.adapters.configuration.variables import fill
from cab.adapters.configuration.yaml_tree import YamlTree
from cab.domain.configured.deployment import Deployment
from cab.domain.configured.model import StrictModel
from cab.domain.errors import BrokerError
from cab.domain.groups import GroupsUnknown
from cab.domain.identifiers import is_printable
from cab.domain.tasks import Task
from cab.encoding import strict_json
from cab.protocol import names
from cab.protocol.authorization_details import PARAMETER, validate_detail
from cab.protocol.tokens.assertions import MAX_LIFE, actor_claim, group_claims
from cab.use_cases.exchange.request import Asked
from cab_ops.explain.exchange import Question

MAX_BYTES = 65_536
_Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class BadRequest(Exception):
    """The file is not a request. The message names the member at fault."""


class _ShortAssertion(StrictModel):
    """What matters of an assertion; the rest is filled in as the edge would."""

    subject: _Text
    groups: tuple[_Text, ...] = ()
    groups_unknown: GroupsUnknown | None = None
    task: dict[str, Any] | None = None
    auth_time: int | datetime | None = None
    acr: _Text | None = None
    amr: tuple[_Text, ...] = ()
    tenant: _Text | None = None
    front_end: _Text | None = None
    may_act: _Text | None = None
    chain: tuple[_Text, ...] = Field(default=(), max_length=3)


class _Request(StrictModel):
    agent: _Text
    assertion: dict[str, Any]
    authorization_details: str | list[Any] | None = None
    resource: _Text | None = None
    audience: _Text | None = None
    scope: str | None = None
    at: datetime | None = None
    mode: Literal["token", "call"] | None = None


def read_question(data: bytes, deployment: Deployment, environment: Mapping[str, str], *, now: datetime) -> Question:
    """The question of the file. `${NAME}` of the deployment's variables is filled in. Raises: BadRequest."""
    if len(data) > MAX_BYTES:
        raise BadRequest(f"is larger than {MAX_BYTES // 1024} KiB")
    try:
        document = strict_json.load_object(data)
    except strict_json.InvalidJson as error:
        raise BadRequest(f"is not a strict JSON object: {error}") from error
    document, problems, _ = _filled(document, deployment, environment)
    if problems:
        raise BadRequest(f"{problems[0].message}; {problems[0].remedy}")
    if isinstance(document.get("assertion"), str):
        raise BadRequest(
            "assertion must be decoded claims, not a token: tokens are credentials and stay where they are"
        )
    request = _validated(_Request, document, "")
    at = request.at or now
    if at.tzinfo is None:
        raise BadRequest("at needs a time zone, e.g. 2026-11-21T12:00:00Z")
    at = at.astimezone(UTC)
    claims = request.assertion
    if "iss" not in claims:
        claims = _claims(_validated(_ShortAssertion, claims, "assertion."), request.agent, deployment, at)
    elif PARAMETER in claims:
        _check_task(claims[PARAMETER], f"assertion.{PARAMETER}")
    details = request.authorization_details
    asked = Asked(
        resource=request.resource,
        audience=request.audience,
        scope=request.scope,
        details=details if details is None or isinstance(details, str) else json.dumps(details),
    )
    known = deployment.agent_by_id.get(request.agent)
    only_calls = known is not None and known.mode == "call"
    calls = request.mode == "call" or (request.mode is None and only_calls)
    return Question(request.agent, claims, asked, at, calls)


def _filled(document: dict[str, Any], deployment: Deployment, environment: Mapping[str, str]) -> tuple[Any, Any, Any]:
    filled = fill(
        YamlTree("request", document), declared=deployment.broker.environment_variables, environment=environment
    )
    return filled.tree.value, filled.problems, filled.used


def _claims(short: _ShortAssertion, agent: str, deployment: Deployment, at: datetime) -> dict[str, Any]:
    """The claims that the edge would have minted at that moment. What the file leaves out follows from the configuration."""
    broker = deployment.broker
    known = deployment.agent_by_id.get(agent)
    tenant = short.tenant or (known.tenant if known else broker.tenants[0].id)
    front_end = short.front_end or next(
        (entry.client_id for entry in deployment.front_ends if entry.tenant == tenant), "unknown"
    )
    idp_issuer = next((entry.issuer for entry in deployment.identity_providers if entry.tenant == tenant), "unknown")
    claims: dict[str, Any] = {
        "iss": broker.sts_issuer if short.chain else broker.edge_issuer,
        "aud": broker.sts_issuer,
        "sub": short.subject,
        "tenant": tenant,
        "idp": {"iss": idp_issuer, "sub_hash": "unknown"},
        **group_claims(short.groups, short.groups_unknown),
        "client_id": front_end,
        "may_act": {"sub": short.may_act or agent},
        "txn": "explained",
        "iat": int(at.timestamp()),
        "exp": int((at + timedelta(seconds=min(broker.lifetimes.assertion_s, MAX_LIFE.total_seconds()))).timestamp()),
        "jti": "explained",
    }
    auth_time = short.auth_time
    optional = {
        "act": actor_claim(short.chain, broker.sts_issuer) if short.chain else None,
        PARAMETER: None if short.task is None else [{"type": names.TASK_TYPE} | short.task],
        "auth_time": int(auth_time.timestamp()) if isinstance(auth_time, datetime) else auth_time,
        "acr": short.acr,
        "amr": list(short.amr) or None,
    }
    if short.task is not None:
        _check_task(optional[PARAMETER], "assertion.task")
    return claims | {name: value for name, value in optional.items() if value is not None}


def _check_task(details: Any, place: str) -> None:
    """The claim's own check would only say that it is malformed; here the member is named."""
    if not isinstance(details, list) or len(details) != 1:
        raise BadRequest(f"{place} must be an array of exactly one object")
    try:
        validate_detail(Task, details[0])
    except BrokerError as error:
        raise BadRequest(f"{place}: {error.detail.removesuffix('.')}") from error


_SENTENCES: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "dict_type": "must be an object",
    "tuple_type": "must be an array",
    "datetime_from_date_parsing": "must be an RFC 3339 instant, e.g. 2026-11-21T12:00:00Z",
    "datetime_parsing": "must be an RFC 3339 instant, e.g. 2026-11-21T12:00:00Z",
    "datetime_type": "must be an RFC 3339 instant, e.g. 2026-11-21T12:00:00Z",
    "too_long": "has too many entries",
    "literal_error": "is none of the words allowed here",
}


def _validated(kind: type[Any], value: dict[str, Any], place: str) -> Any:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        # A misspelt member is missing under its right name too: say the first, not the second.
        first = next((mistake for mistake in found if mistake["type"] == "extra_forbidden"), found[0])
        names_of_kind = list(kind.model_fields)
        member = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            shown = member if is_printable(member, max_length=40) else "a member"
            raise BadRequest(
                f"{place}{shown} is not known here; {choose_from(member, names_of_kind, otherwise='')}"
            ) from error
        raise BadRequest(f"{place}{member} {_SENTENCES.get(first['type'], 'has the wrong form')}") from error
