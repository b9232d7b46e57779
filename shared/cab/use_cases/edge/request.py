"""What a front end asks for, as a value: read here once, and never again from the form."""

from __future__ import annotations

from dataclasses import field

from cab.domain.errors import BrokerError, Reason, invalid_parameter
from cab.protocol import names
from cab.protocol.forms import required
from cab.values import immutable


@immutable
class MintRequest:
    """`may_act` is the agent that is to act, None for the front end's own; `details` the bounds of the task, unread."""

    subject_token: str = field(repr=False)
    may_act: str | None
    details: str | None


def read(form: dict[str, str], *, sts_issuer: str) -> MintRequest:
    """Raises: BrokerError (docs/api.md)."""
    if required(form, "grant_type") != names.TOKEN_EXCHANGE:
        raise BrokerError(Reason.GRANT_TYPE_UNKNOWN, "Only token exchange is offered here.")
    if required(form, "subject_token_type") != names.ID_TOKEN_TYPE:
        raise invalid_parameter("subject_token_type")
    if required(form, "requested_token_type") != names.JWT_TYPE:
        raise invalid_parameter("requested_token_type")
    if "audience" not in form and "resource" not in form:
        raise BrokerError(Reason.TARGET_MISSING, "audience must be the issuer of the token endpoint.")
    if form.get("audience") != sts_issuer or "resource" in form:
        raise BrokerError(Reason.TARGET_UNKNOWN, "audience must be the issuer of the token endpoint.")
    for name in ("actor_token", "actor_token_type", "scope"):
        if name in form:
            raise invalid_parameter(name, f"The parameter {name} has no meaning here.")
    return MintRequest(required(form, "subject_token"), form.get("may_act"), form.get("authorization_details"))
