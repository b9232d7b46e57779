"""Rules that an agent with tokens can go around: what they ask about is not in the token that a platform gets to see.

A platform's token carries scopes, not the intent. An agent that makes its calls itself may get one for a harmless action or
value and use it for another. In call mode the broker sends what was decided, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cab.adapters.cedar.rules import Rule
from cab.adapters.cedar.vocabulary import mentions
from cab.adapters.configuration.problems import Problem
from cab.domain.configured.actions import Action
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection, GrantKind
from cab.domain.configured.deployment import Deployment
from cab.domain.text.patterns import covered_by_any

_NOT_IN_TOKENS: Final = (("context", "parameters"), ("resource", "identifier"))
_MODE: Final = ("context", "agent", "mode")

Applies = Callable[[Rule, Action, str], bool]


def sidestepped(rules: Sequence[Rule], deployment: Deployment, applies_to: Applies) -> Iterator[Problem]:
    """One warning for each rule that asks or forbids, and that some agent's tokens beat."""
    for rule in rules:
        if rule.permits and rule.confirm is None:
            continue
        way = next(_ways_around(rule, rules, deployment, applies_to), None)
        if way is not None:
            remedy = (
                "let the agent use call mode (`mode: call`), where what was decided is what is sent; "
                'or forbid the action unless `context.agent.mode == "call"`'
            )
            yield Problem(rule.file, rule.line, f"{rule.id} can be sidestepped: {way}", remedy, severity="warning")


def _ways_around(rule: Rule, rules: Sequence[Rule], deployment: Deployment, applies_to: Applies) -> Iterator[str]:
    for connection in deployment.connections:
        if connection.grant_kind is GrantKind.BROKER_JWT:
            continue  # its tokens carry the intent
        for action in connection.actions:
            if not applies_to(rule, action, connection.id) or _needs_call_mode(action, connection, rules, applies_to):
                continue
            for agent in deployment.agents:
                if not _gets_tokens(deployment, agent, action, connection):
                    continue
                if any(mentions(rule, path) for path in _NOT_IN_TOKENS):
                    yield (
                        f"the token that {agent.client_id} gets for {action.id} does not carry the values "
                        "that the rule looks at"
                    )
                yield from _by_another_action(rule, action, connection, agent, deployment, applies_to)


def _by_another_action(
    rule: Rule, action: Action, connection: Connection, agent: Agent, deployment: Deployment, applies_to: Applies
) -> Iterator[str]:
    for other in connection.actions:
        covers = bool(action.scopes) and set(action.scopes) <= set(other.scopes)
        if other.id == action.id or not covers or applies_to(rule, other, connection.id):
            continue
        if _gets_tokens(deployment, agent, other, connection):
            yield f"the token that {agent.client_id} gets for {other.id} has the scopes of {action.id} too"


def _needs_call_mode(action: Action, connection: Connection, rules: Sequence[Rule], applies_to: Applies) -> bool:
    """Whether a forbid looks at the mode: then somebody has thought of this."""
    return any(not rule.permits and mentions(rule, _MODE) and applies_to(rule, action, connection.id) for rule in rules)


def _gets_tokens(deployment: Deployment, agent: Agent, action: Action, connection: Connection) -> bool:
    return (
        agent.mode != "call"
        and deployment.zones_allow(agent, connection, calls=False)
        and agent.tenant in connection.tenants
        and action.effect in agent.effects
        and covered_by_any(agent.actions, action.id)
    )
