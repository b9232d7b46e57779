"""The events of one transaction as a story, one paragraph each, in the order in which things happened."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cab.domain.audit import EventType
from cab_ops.audit.questions import Row
from cab_ops.cli.tables import WIDTH, text_of

_INDENT: Final = " " * 14  # as wide as the time before each sentence


def story(txn: str, rows: Sequence[Row], *, is_cut: bool = False) -> str:
    """What happened under `txn`, or how that begins. Whatever a row says is quoted with everything invisible in it spelled out."""
    first = rows[0]
    subject = next((row["subject_key"] for row in rows if row["subject_key"]), None)
    lines = [
        f"transaction {text_of(txn)}, {first['occurred_at'].astimezone(UTC):%Y-%m-%d} (UTC), "
        f"tenant {text_of(first['tenant']) or 'unknown'}"
    ]
    if subject:
        groups: list[str] = next(
            (row["subject"]["groups"] for row in rows if row["subject"] and row["subject"]["groups"]), []
        )
        lines.append(f"user {text_of(subject)}" + (f", groups {text_of(groups)}" if groups else ""))
    lines.append("")
    for row in rows:
        told, *details = _told(row)
        at: datetime = row["occurred_at"].astimezone(UTC)
        lead = f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"
        elsewhere = "" if row["txn"] == txn else f" (in transaction {text_of(row['txn'])})"
        lines += textwrap.wrap(f"{lead}  {told}{elsewhere}", WIDTH, subsequent_indent=_INDENT, break_on_hyphens=False)
        for detail in details:
            lines += textwrap.wrap(
                detail, WIDTH, initial_indent=_INDENT, subsequent_indent=f"{_INDENT}  ", break_on_hyphens=False
            )
    for told in ["Here the story is cut: --limit shows more events."] if is_cut else _without_outcome(rows):
        lines += ["", *textwrap.wrap(told, WIDTH, break_on_hyphens=False)]
    return "\n".join(lines)


def _told(row: Row) -> list[str]:
    teller = _TELLERS.get(row["event_type"], _other)
    sentences = [_ended(row, teller(row))]
    decides = row["event_type"] == EventType.EXCHANGE_DECIDED and (row["token"] or {}).get("kind") != "call"
    if row["decision"] and decides:
        sentences.append(_decided(row))
    return [*sentences, *_particulars(row)]


def _ended(row: Row, sentence: str) -> str:
    outcome = row["outcome"]
    if outcome in ("refused", "failed"):
        return f"{sentence}: {outcome}, {text_of(row['reason_code']) or 'no reason given'}"
    return f"{sentence}: {text_of(outcome)}" if outcome else sentence


def _decided(row: Row) -> str:
    policy = row["policy"] or {}
    rules = text_of(policy.get("determining_rules")) or "no rule"
    compared = (row["task"] or {}).get("comparison")
    shadow = policy.get("shadow_decision") if policy.get("shadow_differs") else None
    return (
        f"decision {text_of(row['decision'])} by {rules}"
        + (f"; compared with the task: {text_of(compared).replace('_', ' ')}" if compared else "")
        + (f"; candidate policies: {text_of(shadow)}" if shadow else "")
    )


def _particulars(row: Row) -> list[str]:
    """What else is known, only where it says something."""
    intent, token, scopes = row["intent"] or {}, row["token"] or {}, row["scopes"] or {}
    lines = []
    if intent.get("parameters") not in (None, "{}"):
        lines.append(f"parameters {text_of(intent['parameters'])}")
    if intent.get("reason"):
        lines.append(f"the agent says (untrusted): {text_of(intent['reason'])}")
    if row["outcome"] == "issued" and scopes.get("granted"):
        lines.append(f"scopes {text_of(scopes['granted'])}" + ("" if scopes.get("narrowed") else ", not narrowed"))
    if row["outcome"] == "issued" and token.get("expires_at"):
        lines.append(f"{text_of(token['kind'])} token until {text_of(token['expires_at'])}")
    lines += _told_of_call(row)
    if row["confirmation_id"]:
        lines.append(f"confirmation {text_of(row['confirmation_id'])}")
    service = row["service"] or {}
    lines.append(f"event {text_of(row['event_id'])} by {text_of(service.get('function')) or 'an unknown function'}")
    return lines


def _of(row: Row, record: str, member: str) -> str:
    return text_of((row[record] or {}).get(member)) or "?"


def _minted(row: Row) -> str:
    task = (row["intent"] or {}).get("task_id")
    bounds = f"for task {text_of(task)} ({_of(row, 'intent', 'trigger')})" if task else "without a task"
    return f"{_of(row, 'actor', 'client_id')} logged the user in; {_of(row, 'actor', 'agent_id')} may act, {bounds}"


def _exchanged(row: Row) -> str:
    if (row["token"] or {}).get("kind") == "call":
        return f"{_of(row, 'actor', 'agent_id')} asked for a call token, to have tools called"
    if (row["tool"] or {}).get("action") is None:
        return f"{_of(row, 'actor', 'agent_id')} asked for a credential"
    identifier = (row["intent"] or {}).get("identifier")
    on = f" on {text_of(identifier)}" if identifier else ""
    asked = f"asked for {_of(row, 'tool', 'action')}{on} at {_of(row, 'tool', 'connection')}"
    return f"{_of(row, 'actor', 'agent_id')} {asked}" + (", to be called by the broker" if _call(row).get("id") else "")


def _confirmation(row: Row) -> str:
    answers = {"permit": "approved", "deny": "refused"}
    if row["event_type"] == EventType.CONFIRMATION_REQUESTED:
        return f"the user was asked to confirm {_of(row, 'tool', 'action')}"
    return f"the user {answers.get(row['decision'], 'answered')} {_of(row, 'tool', 'action')}"


def _grant(row: Row) -> str:
    seq = (row["grant"] or {}).get("seq")
    cause = (row["grant"] or {}).get("cause")
    return (
        f"{text_of(row['event_type'])}: the user's grant at {_of(row, 'tool', 'connection')}"
        + (f", sequence {seq}" if seq is not None else "")
        + (f", {text_of(cause)}" if cause else "")
    )


def _executed(row: Row) -> str:
    """The sentence says whose word it is: the broker saw the answer, the resource gave it, an agent may say what it likes."""
    action, agent = _of(row, "tool", "action"), _of(row, "actor", "agent_id")
    if row.get("observed_by") == "agent":
        return f"{agent} says what came of its token for {action}"
    if row.get("observed_by") == "resource":
        return f"{_of(row, 'actor', 'client_id')} says what it did of {action} for {agent}"
    return f"the broker called {action} for {agent}"


def _call(row: Row) -> Mapping[str, Any]:
    return row.get("call") or {}


def _told_of_call(row: Row) -> list[str]:
    """The request as it was decided, and what the platform answered."""
    call = _call(row)
    if not call:
        return []
    lines = []
    if call.get("id"):
        lines.append(f"call {text_of(call['id'])}")
    if call.get("method"):
        address = f"{text_of(call['method'])} {text_of(call['host'])} {text_of(call['path_template'])}"
        lines.append(
            f"request {address}, {text_of(call['request_bytes'])} bytes" if call.get("request_bytes") else address
        )
    if call.get("outcome"):
        said = [f"outcome {text_of(call['outcome']).replace('_', ' ')}"]
        said += [f"because {text_of(call['cause']).replace('_', ' ')}"] if call.get("cause") else []
        said += [f"status {call['upstream_status']}"] if call.get("upstream_status") is not None else []
        said += [f"sent {call['attempts']} times"] if (call.get("attempts") or 0) > 1 else []
        said += [f"request id there {text_of(call['upstream_request_id'])}"] if call.get("upstream_request_id") else []
        lines.append(", ".join(said))
    if call.get("request_digest"):
        lines.append(f"request digest {text_of(call['request_digest'])}")
    return lines


def _without_outcome(rows: Sequence[Row]) -> list[str]:
    """Attempts of which nobody wrote what came: the platform may have been asked."""
    ended = {_call(row).get("id") for row in rows if row["event_type"] == EventType.TOOL_EXECUTED}
    attempts = (row for row in rows if row["event_type"] == EventType.EXCHANGE_DECIDED and row["outcome"] == "issued")
    lost = {call_id: row for row in attempts if (call_id := _call(row).get("id")) and call_id not in ended}
    return [
        f"No outcome of call {text_of(call)} is on record: after 120 seconds it counts as unknown, and the platform may have "
        f"done {_of(row, 'tool', 'action')}."
        for call, row in lost.items()
    ]


def _other(row: Row) -> str:
    return text_of(row["event_type"])


_TELLERS: Final[Mapping[str, Callable[[Row], str]]] = {
    EventType.ASSERTION_MINTED: _minted,
    EventType.EXCHANGE_DECIDED: _exchanged,
    EventType.CONFIRMATION_REQUESTED: _confirmation,
    EventType.CONFIRMATION_DECIDED: _confirmation,
    EventType.TOOL_EXECUTED: _executed,
    **dict.fromkeys((kind for kind in EventType if kind.startswith("grant.")), _grant),
}
