"""The policy engine: Cedar, prepared at load, one evaluation per decision.  docs/policies.md says what policies can see.

Deny by default; `forbid` wins; any evaluation error denies, whatever Cedar decided: Cedar skips a `forbid` that fails.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import cedarpy

from cab.adapters.cedar.checks import applies_to, check_policies
from cab.adapters.cedar.context import ContextReads, context_of, context_reads
from cab.adapters.cedar.entities import EntityReads, action_entity, entity_reads, resource_entity, user_entity
from cab.adapters.cedar.rules import Rule
from cab.adapters.cedar.schema import ACTION, RESOURCE, USER
from cab.adapters.cedar.worlds import group_worlds
from cab.adapters.configuration.problems import ConfigurationRefused, errors_among
from cab.domain.configured.actions import Action
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Confirm, Decision, Deny, Permit, StepUp
from cab.domain.errors import Reason
from cab.domain.identifiers import digest
from cab.domain.lru import remember
from cab.ports import PolicyRequest, PolicyVerdict
from cab.values import immutable

USERS_REMEMBERED: Final = 1024
ANSWERS_REMEMBERED: Final = 4096
LONGEST_REMEMBERED: Final = 1024  # characters of context: what is remembered is bounded, whatever agents write
_POLICY_NUMBER = re.compile(r"policy `policy(\d+)`")


class CedarPolicyEngine:
    """`ports.PolicyEngine` over the deployment's Cedar policies, and beside them the candidate policies when there are any.

    Raises: ConfigurationRefused when any policy has a mistake: a set that cannot be understood completely never decides.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._active = _RuleSet(deployment, deployment.policies, folder="policies")
        self._candidate = (
            _RuleSet(deployment, deployment.candidate_policies, folder="policies_candidate")
            if deployment.candidate_policies
            else None
        )
        self._candidate_version = (
            f"sha-256:{digest(*(part for file in deployment.candidate_policies for part in file))}"
        )

    def evaluate(self, request: PolicyRequest) -> PolicyVerdict:
        """See `ports.PolicyEngine`. Also asked for intents outside their task; only a Confirm lifts those, which the caller heeds."""
        decision = self._active.decide(request)
        if self._candidate is None:
            return PolicyVerdict(decision)
        return PolicyVerdict(decision, self._candidate.decide(request), self._candidate_version)

    @property
    def rule_ids(self) -> list[str]:
        """Of the active rules, in order."""
        return sorted(self._active.rule_by_id)

    def locate(self, rule_id: str) -> tuple[str, int]:
        """File and line of an active rule. Raises KeyError for an id no active rule has."""
        rule = self._active.rule_by_id[rule_id]
        return rule.file, rule.line

    def rule(self, rule_id: str, *, candidate: bool = False) -> Rule:
        """An active rule, or one of the candidate policies. Raises KeyError for an id that no rule of that set has."""
        rules = self._candidate if candidate else self._active
        if rules is None:
            raise KeyError(rule_id)
        return rules.rule_by_id[rule_id]

    def rules_about(self, action: str, *, candidate: bool = False) -> tuple[Rule, ...]:
        """The active rules, or the candidate ones, whose action scope can match `action`, in the order of the files."""
        rules = self._candidate if candidate else self._active
        return () if rules is None else rules.rules_about(action)


# Action, subject, tenant, groups; the resource, where a rule looks at it; the context, as far as the rules read it.
_Asked = tuple[str, str, str, tuple[str, ...], str, str]
# A no, or the permits that apply: what they demand of the login is held against each request.
_Answer = Deny | tuple[Rule, ...]


@immutable
class _Slice:
    """The rules whose action scope can match one action, parsed, with that action's own entity."""

    rules: tuple[Rule, ...]  # in the order of the parsed text: Cedar calls them policy0, policy1, ... in its errors
    rule_by_id: dict[str, Rule]
    policies: cedarpy.PolicySet
    entities: cedarpy.Entities
    action: dict[str, str]
    zone: str  # the connection's
    context_reads: ContextReads
    entity_reads: EntityReads

    def with_user(self, subject: str, tenant: str, groups: tuple[str, ...]) -> cedarpy.Entities:
        return self.entities.with_added_json_str(user_entity(subject, tenant, groups, self.entity_reads))


class _RuleSet:
    """One complete set of policies, sliced by action at load."""

    def __init__(self, deployment: Deployment, files: Sequence[tuple[str, str]], *, folder: str) -> None:
        rules, problems = check_policies(deployment, files, folder=folder)
        if errors := errors_among(problems):
            raise ConfigurationRefused(errors)
        self.rule_by_id = {rule.id: rule for rule in rules}
        # The same user's next action of the same kind: parsed once.
        self._users: OrderedDict[tuple[str, str, str, tuple[str, ...]], cedarpy.Entities] = OrderedDict()
        self._answers: OrderedDict[_Asked, _Answer] = OrderedDict()
        self._slices = {
            action.id: _slice(rules, action, connection)
            for connection in deployment.connections
            for action in connection.actions
        }

    def rules_about(self, action: str) -> tuple[Rule, ...]:
        part = self._slices.get(action)
        return part.rules if part else ()

    def decide(self, request: PolicyRequest) -> Decision:
        part = self._slices.get(request.action)
        if part is None:
            return Deny(Reason.POLICY_ERROR)
        try:
            resource = f"{request.connection}/{request.identifier}"
            question = {
                "principal": {"type": USER, "id": request.subject},
                "action": part.action,
                "resource": {"type": RESOURCE, "id": resource},
                "context": context_of(request, part.context_reads),
            }
            if request.groups_unknown:
                return self._decide_without_groups(part, request, question, resource)
            answer = self._answer(part, request, question, resource)
            return answer if isinstance(answer, Deny) else _permitted(answer, request)
        except Exception:  # noqa: BLE001 - whatever fails inside the engine denies
            return Deny(Reason.POLICY_ERROR)

    def _answer(self, part: _Slice, request: PolicyRequest, question: dict[str, Any], resource: str) -> _Answer:
        """Cedar's answer, remembered by everything that it is made of: an evaluation is a pure function of what the rules read, and
        the time is in the context where they read that.
        """
        context: str = question["context"]
        looked_at = "" if part.entity_reads.resource is None else resource
        asked = (request.action, request.subject, request.tenant, request.groups, looked_at, context)
        answer = self._answers.get(asked)
        if answer is None:
            result = cedarpy.is_authorized(question, part.policies, self._entities(part, request, resource))
            answer = _read(result, part)
            if len(context) <= LONGEST_REMEMBERED:
                remember(self._answers, asked, answer, most=ANSWERS_REMEMBERED)
        return answer

    def _decide_without_groups(
        self, part: _Slice, request: PolicyRequest, question: dict[str, Any], resource: str
    ) -> Decision:
        """No permit by group, every `forbid` by group, and the demands of every permit that any group could add."""
        must: list[Rule] = []
        may: list[Rule] = []
        failed: list[str] = []
        for rule in part.rules:
            worlds = group_worlds(rule)
            if worlds is None:
                may.append(rule)
                continue
            alone = cedarpy.PolicySet.from_str(rule.text)
            applied = []
            for groups in worlds:
                entities = self._entities(part, replace(request, groups=groups), resource)
                result = cedarpy.is_authorized(question, alone, entities)
                if result.diagnostics.errors or result.decision is cedarpy.Decision.NoDecision:
                    failed.append(rule.id)
                    break
                applied.append(bool(result.diagnostics.reasons))
            if any(applied):
                may.append(rule)
            if applied and all(applied):
                must.append(rule)
        if failed:
            return Deny(Reason.POLICY_ERROR, rules=tuple(sorted(failed)))
        forbids = sorted(rule.id for rule in may if not rule.permits)
        if forbids or not any(rule.permits for rule in must):
            return Deny(Reason.POLICY_DENIED, rules=tuple(forbids))
        return _permitted(sorted(may, key=lambda rule: rule.id), request)

    def _entities(self, part: _Slice, request: PolicyRequest, resource: str) -> cedarpy.Entities:
        key = (request.action, request.subject, request.tenant, request.groups)
        entities = self._users.get(key)
        if entities is None:
            entities = part.with_user(request.subject, request.tenant, request.groups)
            remember(self._users, key, entities, most=USERS_REMEMBERED)
        attributes = part.entity_reads.resource
        if attributes is None:
            return entities
        return entities.with_added_json_str(
            resource_entity(resource, request.connection, part.zone, request.identifier, attributes)
        )


def _slice(rules: Sequence[Rule], action: Action, connection: Connection) -> _Slice:
    relevant = tuple(rule for rule in rules if applies_to(rule, action, connection.id))
    return _Slice(
        rules=relevant,
        rule_by_id={rule.id: rule for rule in relevant},
        policies=cedarpy.PolicySet.from_str("\n".join(rule.text for rule in relevant)),
        entities=cedarpy.Entities.from_json_str(action_entity(action, connection.id)),
        action={"type": ACTION, "id": action.id},
        zone=connection.trust_zone or "",
        context_reads=context_reads(relevant),
        entity_reads=entity_reads(relevant),
    )


def _read(result: cedarpy.AuthzResult, part: _Slice) -> _Answer:
    """Cedar's answer, with the rules that determined it."""
    diagnostics = result.diagnostics
    if diagnostics.errors or result.decision is cedarpy.Decision.NoDecision:
        numbers = {int(number) for error in diagnostics.errors for number in _POLICY_NUMBER.findall(error)}
        return Deny(Reason.POLICY_ERROR, rules=tuple(sorted(part.rules[number].id for number in numbers)))
    determining = tuple(part.rule_by_id[name] for name in sorted(diagnostics.id_annotations_by_reason.values()))
    if len(determining) != len(diagnostics.reasons):  # every rule has an @id, so this would be a set we did not load
        return Deny(Reason.POLICY_ERROR)
    if not result.allowed:
        return Deny(Reason.POLICY_DENIED, rules=tuple(rule.id for rule in determining))
    return determining


def _permitted(determining: Sequence[Rule], request: PolicyRequest) -> Decision:
    """What these permits together ask of the login and of the user."""
    names = tuple(rule.id for rule in determining)
    levels = _levels(determining)
    if levels is None:
        return Deny(Reason.POLICY_ERROR, rules=names)
    acr_values = " ".join(levels) or None
    max_age_s = min((rule.max_age_s for rule in determining if rule.max_age_s is not None), default=None)
    fresh = max_age_s is None or (request.auth_age_s is not None and request.auth_age_s <= max_age_s)
    strong = not levels or request.acr in levels
    if not (fresh and strong):
        return StepUp(rules=names, max_age_s=max_age_s, acr_values=acr_values)
    prompts = tuple(dict.fromkeys(rule.confirm for rule in determining if rule.confirm))
    return Confirm(prompts, rules=names, acr_values=acr_values) if prompts else Permit(rules=names)


def _levels(determining: Sequence[Rule]) -> list[str] | None:
    """The login levels that satisfy every determining rule: none when no rule names one, None when they have none in common.

    Such rules can never be met together: that is a policy error, not an endless step-up.
    """
    demands = [rule.acr_values for rule in determining if rule.acr_values]
    levels = [level for level in demands[0] if all(level in demand for demand in demands)] if demands else []
    return None if demands and not levels else levels
