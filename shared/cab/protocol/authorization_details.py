"""`authorization_details` (RFC 9396): the carrier of intents and tasks, in and out, and the hash that binds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from cab.domain.configured.actions import ParameterValue
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.identifiers import base64url, digest
from cab.domain.intents import MAX_LARGE_PARAMETERS_BYTES, DeclaredIntent
from cab.domain.tasks import Task
from cab.encoding import strict_json
from cab.encoding.canonical_json import canonical

PARAMETER: Final = "authorization_details"
_Detail = TypeVar("_Detail", bound=BaseModel)


def parse_intent(text: str | None) -> DeclaredIntent:
    """Exactly one intent. Raises: BrokerError INTENT_MISSING, INTENT_MALFORMED naming the member at fault."""
    if text is None:
        raise BrokerError(
            Reason.INTENT_MISSING, "Declare the intent in authorization_details.", remedy=Remedy(member=PARAMETER)
        )
    intent = validate_detail(DeclaredIntent, _single(text))
    if len(orjson.dumps(intent.parameters)) > MAX_LARGE_PARAMETERS_BYTES:
        raise _malformed("parameters", "is larger than 32768 bytes")
    return intent


def parse_task(text: str) -> Task:
    """Exactly one task. Raises: BrokerError INTENT_MALFORMED naming the member at fault."""
    return validate_detail(Task, _single(text))


def _single(text: str) -> Any:
    try:
        details = strict_json.loads(text)
    except strict_json.InvalidJson as error:
        raise _malformed(PARAMETER, "is not strict JSON") from error
    if not isinstance(details, list) or len(details) != 1:
        raise _malformed(PARAMETER, "must be an array of exactly one object")
    return details[0]


def validate_detail(kind: type[_Detail], detail: Any) -> _Detail:
    """Shape-check one detail. RFC 9396 section 5: unknown type, unknown or missing field, wrong type or value are all refused."""
    if not isinstance(detail, dict):
        raise _malformed(PARAMETER, "must hold an object")
    try:
        return kind.model_validate_json(orjson.dumps(detail), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        member = str(first["loc"][0]) if first["loc"] else PARAMETER
        if first["type"] == "extra_forbidden" or member not in kind.model_fields:
            raise _malformed(PARAMETER, "has a member that is not defined for its type") from error
        raise _malformed(member, "is missing" if first["type"] == "missing" else "is not valid") from error
    except orjson.JSONEncodeError as error:  # an integer beyond 64 bits
        raise _malformed(PARAMETER, "holds a number out of range") from error


def _malformed(member: str, detail: str) -> BrokerError:
    return BrokerError(Reason.INTENT_MALFORMED, f"{member} {detail}.", remedy=Remedy(member=member))


def details_hash(details: list[dict[str, Any]]) -> str:
    """`intent_hash`: SHA-256 over the RFC 8785 form of the granted array, `reason` left out."""
    bare = [{name: value for name, value in detail.items() if name != "reason"} for detail in details]
    return "sha-256:" + base64url(hashlib.sha256(canonical(bare)).digest())


def parameters_digest(parameters: Mapping[str, ParameterValue]) -> str:
    """Names the parameters of an intent in audit, where their redacted values are not shown."""
    return digest("cab-parameters", canonical(parameters).decode())


def task_detail(task: Task) -> dict[str, Any]:
    """The task as an assertion carries it."""
    return task.model_dump(mode="json", exclude_none=True)


def task_digest(task: Task) -> str:
    """Names the bounds of a task in audit, so that two hops can be seen to have had the same."""
    return digest("cab-task", canonical(task_detail(task)).decode())
