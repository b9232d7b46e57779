"""An explanation as people and as programs read it. Text of agents is shown as JSON, so that nothing in it acts on the terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import click

from cab.adapters.cedar.rules import Rule
from cab.domain.calls.rendering import RenderedCall
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import Reason
from cab.protocol.oauth_errors import error_body
from cab_ops.configuration.places import Places
from cab_ops.explain.exchange import About, Explanation, Result, Stage, Step, describe_shadow

_COLOURS: Mapping[Result, str] = {
    Result.PASSED: "green",
    Result.FAILED: "red",
    Result.ASKS: "yellow",
    Result.OPEN: "cyan",
    Result.ASSUMED: "cyan",
    Result.RECORDED: "cyan",
    Result.NOT_REACHED: "bright_black",
}
_DECISION_COLOURS = {"permit": "green", "deny": "red", "confirm": "yellow"}
_INDENT = " " * 6
_WIDTH = 120


class Sources(Protocol):
    """Where what was decided is in the deployment's files."""

    @property
    def root(self) -> Path: ...
    @property
    def deployment(self) -> Deployment: ...
    @property
    def places(self) -> Places: ...
    @property
    def unset(self) -> tuple[str, ...]: ...
    def rules_of(self, explanation: Explanation) -> tuple[Rule, ...]: ...
    def candidate_rules_of(self, explanation: Explanation) -> tuple[Rule, ...]: ...
    def unmatched_rules_of(self, explanation: Explanation) -> tuple[Rule, ...]: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the audit event says was decided, and whether the explanation comes to the same."""

    event_id: str
    decision: str | None
    reason_code: str | None
    outcome: str | None
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class Proved:
    """One explanation with its heading. `recorded` and `notes` only for exchanges of the past."""

    agent: str
    subject: str
    at: datetime
    explanation: Explanation
    recorded: Recorded | None = None
    notes: tuple[str, ...] = ()


def proof_as_json(proof: Proved, sources: Sources) -> str:
    """One object: `decision`, `error`, `reason_code`, `rules` and `checks`; members that do not apply are null or empty."""
    explanation = proof.explanation
    failing = explanation.failing
    answer: dict[str, Any] = {
        "agent": proof.agent,
        "subject": proof.subject,
        "at": _instant(proof.at),
        "decision": explanation.decision,
        **_error(explanation),
        "decided_by": failing.check.value if failing else None,
        "rules": [_rule(rule) for rule in sources.rules_of(explanation)],
        "candidate": _candidate(explanation, sources),
        "granted": _granted(explanation),
        "checks": [_step(step, sources) for step in explanation.steps],
        "policy_version": sources.deployment.policy_version,
        "configuration": str(sources.root),
        "unset_variables": list(sources.unset),
        "recorded": asdict(proof.recorded) if proof.recorded else None,
        "notes": list(proof.notes),
    }
    return json.dumps(answer, indent=2)


def proof_as_text(proof: Proved, sources: Sources) -> str:
    explanation = proof.explanation
    lines = [
        f"{_shown(proof.agent)} asks for {_shown(proof.subject)}, {_instant(proof.at)}",
        f"configuration {sources.root}, policy version {sources.deployment.policy_version}",
    ]
    if sources.unset:
        lines.append(f"unset, so placeholders are used: {', '.join(sources.unset)}")
    lines.append("")
    for number, step in enumerate(explanation.steps, 1):
        lines += _step_lines(number, step, sources)
        if step.check is Stage.POLICY and step.result is not Result.NOT_REACHED:
            lines += _policy_lines(explanation, sources)
    lines += ["", *_granted_lines(proof), *_recorded_lines(proof), _last_line(explanation)]
    return "\n".join(lines)


def _step_lines(number: int, step: Step, sources: Sources) -> list[str]:
    name = f"{number:>2}. {step.check.value:<22}"
    coloured = f"{name} {click.style(f'{step.result.value:<11}', fg=_COLOURS[step.result])}"
    if step.result is Result.NOT_REACHED:
        return [coloured.rstrip()]
    place = _place(step.about, sources) if step.about else None
    finding = f"{step.finding} [{place}]" if place else step.finding
    first, *rest = textwrap.wrap(finding, _WIDTH - 39, break_on_hyphens=False) or [""]
    lines = [f"{coloured} {first}", *(f"{'':<39}{line}" for line in rest)]
    for name, value in step.inputs.items():
        if value not in (None, {}):
            lines += _wrapped(f"{name}: {_shown(value)}")
    return lines


def _policy_lines(explanation: Explanation, sources: Sources) -> list[str]:
    lines: list[str] = []
    decided = sources.rules_of(explanation)
    for rule in decided:
        lines += _rule_lines("determined by", rule)
    others = sources.unmatched_rules_of(explanation)
    if others:
        named = ", ".join(f"{rule.id} ({rule.file}:{rule.line})" for rule in others)
        lines += _wrapped(f"did not decide: {named}")
    if shadow := describe_shadow(explanation.judgement):
        said, differs = shadow
        lines += _wrapped(f"candidate policies {'differ' if differs else 'agree'}: {said}")
        for rule in sources.candidate_rules_of(explanation):
            lines += _rule_lines("candidate", rule)
    return lines


def _rule_lines(lead: str, rule: Rule) -> list[str]:
    text = [f"{_INDENT}  {line}" for line in rule.text.splitlines()]
    return [f"{_INDENT}{lead} {rule.id}, {rule.file}:{rule.line}", *text]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=f"{_INDENT}  ", break_on_hyphens=False)


def _granted_lines(proof: Proved) -> list[str]:
    explanation = proof.explanation
    granted = explanation.granted
    if granted is None or explanation.decision == "deny":
        return []
    would = "would be issued" if explanation.decision == "permit" else "would be issued once the user has agreed"
    if proof.recorded and proof.recorded.outcome == "issued":
        would = "was issued"
    if granted.request is not None:
        would += ", to nobody but the broker"
    kinds = {"broker_jwt": "a token signed by the broker", "downstream": "the platform's own token"}
    open_checks = [step.check.value for step in explanation.steps if step.result is Result.OPEN]
    scope = " ".join(granted.scopes) or "(none)"
    lines = [
        *textwrap.wrap(f"{would}: {kinds[granted.kind]}, scope {scope}, life: {granted.lifetime}", _WIDTH),
        f"intent_hash {granted.intent_hash}",
        *_request_lines(granted.request),
    ]
    if open_checks:
        lines.append(f"provided that these pass at run time: {', '.join(open_checks)}")
    return [*lines, ""]


def _request_lines(request: RenderedCall | None) -> list[str]:
    """What the broker would send, in place of the agent."""
    if request is None:
        return []
    lines = [f"The broker would send {request.method} {_shown(request.url)}"]
    if request.body is not None:
        lines += _wrapped(f"{request.content_type}: {_shown(request.body.decode())}")
    return [*lines, f"request_digest {request.digest}"]


def _request(request: RenderedCall) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.url,
        "content_type": request.content_type,
        "body": None if request.body is None else request.body.decode(),
        "request_digest": request.digest,
    }


def _recorded_lines(proof: Proved) -> list[str]:
    lines = [line for note in proof.notes for line in textwrap.wrap(f"note: {note}", _WIDTH, subsequent_indent="  ")]
    if proof.recorded is None:
        return lines
    recorded = {name: value for name, value in asdict(proof.recorded).items() if value is not None}
    agrees = recorded.pop("agrees", None)
    said = {True: "; the explanation agrees", False: "; the explanation DIFFERS", None: ""}[agrees]
    told = "  ".join(f"{name}: {_shown(value)}" for name, value in recorded.items())
    return [*lines, *textwrap.wrap(f"recorded: {told}{said}", _WIDTH, subsequent_indent="  ")]


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds" if at.microsecond else "seconds").replace("+00:00", "Z")


def _last_line(explanation: Explanation) -> str:
    decision = click.style(explanation.decision, fg=_DECISION_COLOURS[explanation.decision], bold=True)
    error = _error(explanation)
    if error["error"] is None:
        return f"decision: {decision}"
    failing = explanation.failing
    by = f"  decided by: {failing.check.value}" if failing else ""
    return f"decision: {decision}  error: {error['error']}  reason_code: {error['reason_code']}{by}"


def _error(explanation: Explanation) -> dict[str, Any]:
    """The members of the client's error body that do not depend on the running broker."""
    refusal = explanation.refusal
    if refusal is None:
        return {"error": None, "reason_code": None}
    body = error_body(refusal, txn="")
    extra: tuple[str, ...] = ("error_description", "parameter")
    if refusal.reason is Reason.STEP_UP_REQUIRED:
        extra = (*extra, "acr_values", "max_age")
    return {name: body[name] for name in ("error", "reason_code", *extra) if name in body}


def _step(step: Step, sources: Sources) -> dict[str, Any]:
    return {
        "check": step.check.value,
        "result": step.result.value,
        "finding": step.finding or None,
        "inputs": dict(step.inputs),
        "source": _place(step.about, sources) if step.about else None,
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {"id": rule.id, "file": rule.file, "line": rule.line, "text": rule.text}


def _candidate(explanation: Explanation, sources: Sources) -> dict[str, Any] | None:
    shadow = describe_shadow(explanation.judgement)
    if shadow is None:
        return None
    said, differs = shadow
    rules = [_rule(rule) for rule in sources.candidate_rules_of(explanation)]
    return {"decision": said, "differs": differs, "rules": rules}


def _granted(explanation: Explanation) -> dict[str, Any] | None:
    granted = explanation.granted
    if granted is None or explanation.decision == "deny":
        return None
    return {
        "kind": granted.kind,
        "scope": " ".join(granted.scopes),
        "lifetime": granted.lifetime,
        "authorization_details": granted.authorization_details,
        "intent_hash": granted.intent_hash,
        **({} if granted.request is None else {"request": _request(granted.request)}),
    }


def _place(about: About, sources: Sources) -> str | None:
    found = getattr(sources.places, about.kind)(about.name)
    return f"{found[0]}:{found[1]}" if found else None


def _shown(value: Any) -> str:
    """Plain words as they are, everything else as ASCII JSON."""
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return json.dumps(list(value))
    return json.dumps(value)
