"""The log line of what somebody should look at: fixed sentences, which the log-based metrics of Terraform count.

A line repeats a few members of the audit event that it stands beside, and is as rare as that. It holds no token and no e-mail
address, because the event holds none.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from cab.domain.audit import AuditEvent, EventType, unverified
from cab.domain.errors import BrokerError, Claimed, Reason
from cab.encoding.records import as_json

_log = logging.getLogger(__name__)

CREDENTIAL_REFUSED: Final = "credential refused"
NEEDS_REAUTH: Final = "grant needs reauth"
_BY_REASON: Final = {
    Reason.CLIENT_ASSERTION_REPLAYED: "spent again",
    Reason.STATE_USED: "spent again",
    Reason.RATE_LIMITED: "rate limited",
    Reason.POLICY_ERROR: "policy error",
    Reason.POLICY_UNAVAILABLE: "policy error",
    Reason.PROVIDER_UNAVAILABLE: "provider unavailable",
    Reason.IDP_UNAVAILABLE: "identity provider unavailable",
}
MESSAGES: Final = frozenset({CREDENTIAL_REFUSED, NEEDS_REAUTH, *_BY_REASON.values()})
_SHOWN: Final = {"event_id", "event_type", "tenant", "txn", "reason_code", "why", "unverified", "caller_ip_prefix"}


def tell_refusal(event: AuditEvent) -> None:
    """One line for a refusal that matters: by its reason, or because a credential was refused. None for all others."""
    message = _BY_REASON.get(Reason(event.reason_code)) if event.reason_code else None
    if message is None and event.why is not None:
        message = CREDENTIAL_REFUSED
    if message is not None:
        _tell(message, event)


def tell_change(event: AuditEvent) -> None:
    """One line where a grant's state change calls for somebody: its user must connect again."""
    if event.event_type is EventType.GRANT_NEEDS_REAUTH:
        _tell(NEEDS_REAUTH, event)


def tell_unrecorded(refusal: BrokerError) -> None:
    """Why a caller was refused by the function that publishes no events because it writes those of all others.

    One line for each: the platform lets nobody through but accounts that may invoke it, and writes a line for each call too.
    """
    claimed = refusal.claimed or Claimed()
    about = unverified(claimed.client_id, claimed.issuer)
    said: dict[str, Any] = {"reason_code": refusal.reason.value, "why": refusal.why}
    if about is not None:
        said["unverified"] = as_json(about)
    _log.warning(CREDENTIAL_REFUSED, extra={"said": said})


def _tell(message: str, event: AuditEvent) -> None:
    said = {name: value for name, value in as_json(event).items() if name in _SHOWN}
    if event.tool is not None and event.tool.connection is not None:
        said["connection"] = event.tool.connection
    if event.grant is not None and event.grant.cause is not None:
        said["cause"] = event.grant.cause
    _log.warning(message, extra={"said": said})
