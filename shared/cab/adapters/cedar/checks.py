"""Everything a set of policies can get wrong: syntax, ids, types, words outside closed lists, rules that open more than they seem to."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import cedarpy
from cedarpy import pst

from cab.adapters.cedar.literals import mistaken_literals
from cab.adapters.cedar.rules import Rule, read_rules
from cab.adapters.cedar.schema import ACTION, action_groups, cedar_schema, known_groups
from cab.adapters.cedar.sidesteps import sidestepped
from cab.adapters.cedar.vocabulary import mentions
from cab.adapters.configuration.checks.findings import CONNECTIONS, IDENTITY_PROVIDERS
from cab.adapters.configuration.problems import Problem, choose_from, errors_among
from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.deployment import Deployment

TASK = ("context", "task")
UNKNOWN_ACTION = "unrecognized action"
NO_ACTION_LEFT = "unable to find an applicable action given the policy scope constraints"


def applies_to(rule: Rule, action: Action, connection: str) -> bool:
    """Whether the rule's action scope can match `action`. Where it cannot, Cedar neither satisfies nor fails the rule."""
    scope = rule.form.action
    if isinstance(scope, pst.ScopeAny):
        return True
    if isinstance(scope, pst.ActionEq):
        return str(scope.entity.type) == ACTION and scope.entity.id == action.id
    names = {action.id, *action_groups(action, connection)}
    return any(str(entity.type) == ACTION and entity.id in names for entity in scope.entities)


def check_policies(
    deployment: Deployment,
    files: Sequence[tuple[str, str]],
    *,
    folder: str = "policies",
    unread: Collection[str] = frozenset(),
) -> tuple[list[Rule], list[Problem]]:
    """The rules of the files and everything wrong with them, warnings included. With an error among them nothing may be enforced.

    Nothing is said that would rest on the content of an `unread` YAML file.
    """
    rules, problems = read_rules(files)
    if not files:
        remedy = "add a .cedar file: without a permit everything is denied"
        problems.append(Problem(folder, 1, "there is no policy at all", remedy))
    if CONNECTIONS in unread:  # without the catalog nothing is known about actions, parameters and resources
        return rules, problems
    schema = cedarpy.Schema.from_json_str(json.dumps(cedar_schema(deployment, any_group=IDENTITY_PROVIDERS in unread)))
    ids = [action.id for _, action in _catalog(deployment)]
    a_name_is_missing = len(ids) != len(set(ids))  # the one that the second of two like ids should have had
    unknown_names: dict[str, list[Problem]] = {}
    for rule in rules:
        type_errors = list(_type_errors(rule, schema, deployment))
        for message, problem in type_errors:
            if not message.endswith("is not declared as a valid eid") and UNKNOWN_ACTION not in message:
                problems.append(problem)
            elif not (a_name_is_missing and UNKNOWN_ACTION in message):
                unknown_names.setdefault(message, []).append(problem)
        if not type_errors:
            problems += _mistaken_literals(rule, deployment, unread)
            problems += _opens_beyond_the_task(rule, deployment)
    for (
        first,
        *others,
    ) in unknown_names.values():  # one name that does not exist is one mistake, however many rules name it
        more = f"; {len(others)} more policies name it" if others else ""
        problems.append(replace(first, message=first.message + more))
    if (
        rules and not a_name_is_missing and not errors_among(problems)
    ):  # a permit that cannot be read is no missing permit
        problems += _actions_without_permit(rules, deployment, folder)
        problems += sidestepped(rules, deployment, applies_to)
    return rules, problems


def _catalog(deployment: Deployment) -> Iterator[tuple[str, Action]]:
    for connection in deployment.connections:
        for action in connection.actions:
            yield connection.id, action


def _actions_of(rule: Rule, deployment: Deployment) -> list[tuple[str, Action]]:
    return [(connection, action) for connection, action in _catalog(deployment) if applies_to(rule, action, connection)]


def _line_of(rule: Rule, word: str) -> int:
    """The line of the rule with `word`, in quotes if it does; the rule's first line when it cannot be told."""
    found = re.search(f'"{re.escape(word)}"', rule.text) or re.search(rf"(?<!\w){re.escape(word)}(?!\w)", rule.text)
    return rule.line + rule.text.count("\n", 0, found.start() if found else 0)


def _type_errors(rule: Rule, schema: cedarpy.Schema, deployment: Deployment) -> Iterator[tuple[str, Problem]]:
    """Cedar's validator on this one rule: its message, and the same in our form.

    It reports no positions: the quoted words are looked up in the text.
    """
    messages = sorted(
        re.sub(r"^for policy `policy0`[,:] ", "", error.error)
        for error in cedarpy.validate_policies(rule.text, schema).errors
    )
    if len(messages) > 1:  # a consequence of the other mistake, not one of its own
        messages = [message for message in messages if message != NO_ACTION_LEFT]
    one_per_mistake = {re.sub(r' for CAB::Action::".*"', "", message): message for message in reversed(messages)}
    for message in reversed(one_per_mistake.values()):  # the same one for fifty actions is reported for the first
        named = re.search(r'`(?:[\w:]*::)?"([^"`]*)"`', message) or re.search(r"`([^`]+)`", message)
        word = named.group(1) if named else ""
        remedy = _remedy(message, word, deployment)
        yield message, Problem(rule.file, _line_of(rule, word), f"{rule.id}: {message}", remedy)


def _remedy(message: str, word: str, deployment: Deployment) -> str:
    if UNKNOWN_ACTION in message:
        known = {name for connection, action in _catalog(deployment) for name in (action.id, connection)}
        return choose_from(word, known | set(Effect), otherwise="add the action to connections.yaml")
    if "CAB::Group::" in message:
        return choose_from(word, known_groups(deployment), otherwise="map a group in identity_providers.yaml")
    if "CAB::Connection::" in message:
        return choose_from(word, deployment.connection_by_id, otherwise="add the connection to connections.yaml")
    if "optional attribute" in message:
        parent, _, name = word.rpartition(".")
        return f"guard it: `context.{parent} has {name} && ...`"
    if "unrecognized entity type" in message:
        return "write the type with its namespace: CAB::User, CAB::Group, CAB::Action, CAB::Resource, CAB::Connection"
    if "not found" in message:
        return "see docs/policies.md for the attributes, connections.yaml for the parameters of each action"
    return "see docs/policies.md for the types policies may use"


def _mistaken_literals(rule: Rule, deployment: Deployment, unread: Collection[str]) -> Iterator[Problem]:
    mistakes = mistaken_literals(rule, deployment, _actions_of(rule, deployment), unread=unread)
    for mistake in dict.fromkeys(mistakes):
        yield Problem(
            rule.file,
            _line_of(rule, mistake.word),
            f"{rule.id}: {mistake.message}",
            mistake.remedy,
            severity=mistake.severity,
        )


def _opens_beyond_the_task(rule: Rule, deployment: Deployment) -> Iterator[Problem]:
    changes = any(action.effect is not Effect.READ for _, action in _actions_of(rule, deployment))
    if not rule.permits or not changes or mentions(rule, TASK):
        return
    what = (
        "asks the user to confirm even what is outside the task"
        if rule.confirm
        else "permits changes without looking at the task"
    )
    yield Problem(
        rule.file,
        rule.line,
        f"{rule.id} {what}",
        'add `when { context.task.comparison == "within" }`, or name the comparisons it is meant for',
        severity="warning",
    )


def never_permitted(deployment: Deployment) -> frozenset[str]:
    """The actions that no policy permits to anyone, whatever the circumstances: nobody should be promised them."""
    return frozenset(_never_permitted(read_rules(deployment.policies)[0], deployment))


def _never_permitted(rules: Sequence[Rule], deployment: Deployment) -> list[str]:
    return [
        action.id
        for connection, action in _catalog(deployment)
        if not any(rule.permits and applies_to(rule, action, connection) for rule in rules)
    ]


def _actions_without_permit(rules: Sequence[Rule], deployment: Deployment, folder: str) -> Iterator[Problem]:
    alone = _never_permitted(rules, deployment)
    if alone:
        yield Problem(
            folder,
            1,
            f"no policy permits {', '.join(alone)} to anyone",
            "add a permit (is a file missing here?), or remove the action from connections.yaml",
            severity="warning",
        )
