"""Words and numbers that policies name. One that cannot occur type-checks, never matches, and so switches its rule off in silence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from cedarpy import pst

from cab.adapters.cedar.rules import Rule
from cab.adapters.cedar.schema import CONNECTION, NAMESPACE, RESOURCE, USER, cedar_schema
from cab.adapters.cedar.vocabulary import WEEKDAYS, Comparison, Path, comparisons, presences, shown, type_tests
from cab.adapters.configuration.checks.findings import AGENTS, BROKER
from cab.adapters.configuration.problems import choose_from
from cab.domain.configured.actions import IDENTIFIER_CHARACTER, MAX_INTEGER, Action
from cab.domain.configured.deployment import Deployment
from cab.domain.identifiers import SUBJECT_KEY
from cab.domain.intents import TaskComparison
from cab.domain.tasks import Trigger
from cab.values import immutable

NO_TRIGGER = "unknown"  # without a task nothing says what set the agent off
TRUST_ZONE: Final = ("context", "agent", "trust_zone")
HOUR: Final = ("context", "time", "hour_utc")
IDENTIFIER: Final = ("resource", "identifier")
RESOURCE_ZONE: Final = ("resource", "trust_zone")
_WRITTEN: Final = {"eq": "==", "less": "<", "less_eq": "<=", "greater": ">", "greater_eq": ">="}


@immutable
class Mistake:
    """`word` is what to look for in the rule's text."""

    word: str
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"


def mistaken_literals(
    rule: Rule,
    deployment: Deployment,
    actions: Sequence[tuple[str, Action]],
    *,
    unread: Collection[str] = frozenset(),
) -> Iterator[Mistake]:
    """What the rule names and what cannot be. `actions` are those its scope can match, each with its connection's id.

    Words that an `unread` YAML file would list are taken for right.
    """
    yield from _mistaken_entities(rule, deployment, actions)
    yield from _mistaken_presences(rule, deployment, actions)
    yield from _mistaken_types(rule)
    words = _vocabulary(deployment, actions, unread)
    ranges = _ranges(actions)
    lengths = _lengths(actions)
    for comparison in comparisons(rule):
        path, literal = comparison.path, comparison.literal
        if isinstance(literal, pst.LongLit):
            if path in ranges:
                yield from _out_of_range(comparison, literal.value, *ranges[path])
        elif path in words:
            yield from _unknown_word(comparison, words[path])
            if path == TRUST_ZONE and AGENTS not in unread:
                yield from _zone_of_nobody(comparison, words[path], deployment)
        elif path == IDENTIFIER and actions:
            yield from _unknown_identifier(comparison, deployment, actions)
        elif path in lengths and isinstance(literal, pst.StringLit) and len(literal.value) > lengths[path]:
            remedy = f"it has at most {lengths[path]} characters"
            yield Mistake(literal.value, f"{'.'.join(path)} is never as long as that", remedy)


def _vocabulary(
    deployment: Deployment, actions: Sequence[tuple[str, Action]], unread: Collection[str]
) -> Mapping[Path, frozenset[str]]:
    """The closed lists by attribute path."""
    agents = frozenset(agent.client_id for agent in deployment.agents)
    connections = {connection for connection, _ in actions} or deployment.connection_by_id.keys()
    words: dict[Path, frozenset[str]] = {
        ("context", "task", "comparison"): frozenset(TaskComparison),
        ("context", "trigger"): frozenset((*get_args(Trigger), NO_TRIGGER)),
        ("context", "agent", "mode"): frozenset(("token", "call")),
        ("context", "time", "weekday"): frozenset(WEEKDAYS),
        ("resource", "connection"): frozenset(connections),
    }
    if AGENTS not in unread:
        words |= {("context", "agent", "id"): agents, ("context", "chain"): agents}
    if BROKER not in unread:
        words[RESOURCE_ZONE] = frozenset((*deployment.zone_by_id, ""))
        words[TRUST_ZONE] = frozenset(deployment.zone_by_id)
        words["principal", "tenant"] = frozenset(tenant.id for tenant in deployment.broker.tenants)
    for path, declared in _parameters(actions):
        if all(parameter.values for parameter in declared):
            words[path] = frozenset(value for parameter in declared for value in parameter.values)
    return words


def _ranges(actions: Sequence[tuple[str, Action]]) -> Mapping[Path, tuple[int, int]]:
    """The smallest and the largest number that can occur, by attribute path."""
    ranges: dict[Path, tuple[int, int]] = {
        HOUR: (0, 23),
        ("context", "time", "epoch_s"): (0, MAX_INTEGER),
        ("context", "auth", "age_s"): (0, MAX_INTEGER),
    }
    for path, declared in _parameters(actions):
        if all(parameter.type == "integer" for parameter in declared):
            ranges[path] = (
                min(parameter.minimum for parameter in declared),
                max(parameter.maximum for parameter in declared),
            )
    return ranges


def _lengths(actions: Sequence[tuple[str, Action]]) -> Mapping[Path, int]:
    return {path: max(parameter.longest for parameter in declared) for path, declared in _parameters(actions)}


def _parameters(actions: Sequence[tuple[str, Action]]) -> Iterator[tuple[Path, list[Any]]]:
    for name in sorted({name for _, action in actions for name in action.parameters}):
        declared = [action.parameters[name] for _, action in actions if name in action.parameters]
        yield ("context", "parameters", name), declared


def _unknown_word(comparison: Comparison, known: frozenset[str]) -> Iterator[Mistake]:
    word = shown(comparison.literal)
    if not any(_matches(comparison.literal, other) for other in known):
        otherwise = "remove the comparison"
        if comparison.path in (TRUST_ZONE, RESOURCE_ZONE):
            otherwise = "list the zone under trust_zones in broker.yaml"
        yield Mistake(
            word, f"{'.'.join(comparison.path)} is never `{word}`", choose_from(word, known, otherwise=otherwise)
        )


def _zone_of_nobody(comparison: Comparison, known: frozenset[str], deployment: Deployment) -> Iterator[Mistake]:
    named = {zone for zone in known if _matches(comparison.literal, zone)}
    if named and named.isdisjoint(agent.trust_zone for agent in deployment.agents):
        word = shown(comparison.literal)
        remedy = "write the zone into the agents it is meant for, or compare with a zone that agents have"
        yield Mistake(word, f"no agent is in the trust zone `{word}`", remedy, severity="warning")


def _out_of_range(comparison: Comparison, number: int, low: int, high: int) -> Iterator[Mistake]:
    name, word = ".".join(comparison.path), str(number)
    remedy = f"it is {low} to {high}"
    never, always = {
        "eq": (not low <= number <= high, False),
        "less": (number <= low, number > high),
        "less_eq": (number < low, number >= high),
        "greater": (number >= high, number < low),
        "greater_eq": (number > high, number <= low),
    }[comparison.operator]
    if never and comparison.operator == "eq":
        yield Mistake(word, f"{name} is never {number}", remedy)
    elif never or always:
        what = f"{name} {_WRITTEN[comparison.operator]} {number} is {'never' if never else 'always'} true"
        # `hour_utc < 24` says what it means; an hour 180 is a mistake whatever it is compared by.
        off = never or (comparison.path == HOUR and not low <= number <= high + 1)
        yield Mistake(word, what, remedy, severity="error" if off else "warning")


def _unknown_identifier(
    comparison: Comparison, deployment: Deployment, actions: Sequence[tuple[str, Action]]
) -> Iterator[Mistake]:
    word, literal = shown(comparison.literal), comparison.literal

    def fits(action: Action) -> bool:
        if isinstance(literal, pst.Like):
            return _meets(literal.pattern, action.identifier)
        return action.accepts_identifier(word)

    if any(fits(action) for _, action in actions):
        return
    remedy = choose_from(word, {action.identifier for _, action in actions}, otherwise="")
    known = any(fits(action) for connection in deployment.connections for action in connection.actions)
    message = f"no action of this rule has an identifier `{word}`"
    yield Mistake(word, message, remedy, severity="warning" if known else "error")


def _mistaken_entities(rule: Rule, deployment: Deployment, actions: Sequence[tuple[str, Action]]) -> Iterator[Mistake]:
    """Users have opaque keys, resources the form of some action's identifier, connections an action of the rule."""
    connections = {connection for connection, _ in actions}
    for entity in sorted(pst.entity_uids(rule.form), key=str):
        kind, name = str(entity.type), entity.id
        if kind == USER and not SUBJECT_KEY.fullmatch(name):
            remedy = (
                "write policies for groups; a user's key is the `sub` of their assertions, 43 letters, digits, - and _"
            )
            yield Mistake(name, f"`{name}` is not the key of any user", remedy)
        elif kind == CONNECTION and actions and name not in connections:
            message = f"no action of this rule is at connection `{name}`"
            yield Mistake(name, message, choose_from(name, connections, otherwise="remove it"))
        elif kind == RESOURCE and actions:
            connection, _, identifier = name.partition("/")
            if not any(at == connection and action.accepts_identifier(identifier) for at, action in actions):
                known = {f"{at}/{action.identifier}" for at, action in actions}
                message = f"no action of this rule has a resource `{name}`"
                yield Mistake(name, message, choose_from(name, known, otherwise="remove it"))


def _mistaken_presences(rule: Rule, deployment: Deployment, actions: Sequence[tuple[str, Action]]) -> Iterator[Mistake]:
    """Cedar takes a question for an attribute that nobody declared as answered with no."""
    asked = list(presences(rule))
    if not asked or not actions:
        return
    schema = cedar_schema(deployment)[NAMESPACE]
    shapes: dict[str, list[Any]] = {
        "context": [schema["actions"][action.id]["appliesTo"]["context"] for _, action in actions],
        "principal": [schema["entityTypes"]["User"]["shape"]],
        "resource": [schema["entityTypes"]["Resource"]["shape"]],
    }
    for variable, *names in asked:
        records = shapes.get(variable, [])
        for depth, name in enumerate(names):
            known = {attribute for record in records for attribute in record.get("attributes", {})}
            if name not in known:
                path = ".".join((variable, *names[: depth + 1]))
                yield Mistake(name, f"there is no {path} in this rule", choose_from(name, known, otherwise="remove it"))
                break
            records = [record["attributes"][name] for record in records if name in record.get("attributes", {})]


def _mistaken_types(rule: Rule) -> Iterator[Mistake]:
    types = {"principal": USER, "resource": RESOURCE}
    for variable, name in type_tests(rule):
        if variable in types and name != types[variable]:
            word = name.rpartition("::")[2]
            yield Mistake(word, f"{variable} is never a {name}", f"it is always a {types[variable]}; remove the test")


def _matches(literal: Any, word: str) -> bool:
    if isinstance(literal, pst.Like):
        return _glob(literal.pattern).fullmatch(word) is not None
    return bool(literal.value == word)


def _glob(pattern: Iterable[pst.PatternElem]) -> re.Pattern[str]:
    parts = (".*" if isinstance(part, pst.Wildcard) else re.escape(part.value) for part in pattern)
    return re.compile("".join(parts), re.DOTALL)


def _meets(pattern: Sequence[pst.PatternElem], form: str) -> bool:
    """Whether any identifier of the form (`deal/{id}`, or plain text) matches the pattern: both are walked side by side."""
    if not form.endswith("{id}"):
        return _glob(pattern).fullmatch(form) is not None
    prefix = form.removesuffix("{id}")
    first, more = len(prefix), len(prefix) + 1  # the states behind the prefix: no character of the id yet, at least one
    waiting, seen = [(0, 0)], set[tuple[int, int]]()
    while waiting:
        at, state = waiting.pop()
        if (at, state) in seen:
            continue
        seen.add((at, state))
        if at == len(pattern):
            if state == more:
                return True
            continue
        part = pattern[at]
        if isinstance(part, pst.Wildcard):
            waiting += [(at + 1, state), (at, min(state + 1, more))]
        elif part.value == prefix[state] if state < first else IDENTIFIER_CHARACTER.fullmatch(part.value):
            waiting.append((at + 1, min(state + 1, more)))
    return False
