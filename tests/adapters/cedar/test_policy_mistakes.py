"""No broken policy is ever enforced: the load refuses it with file, line and remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.adapters.cedar.policy_cases import LIST, PLAIN, UPDATE, deployment, engine
from tests.adapters.configuration.deployment_folder import CONNECTIONS, ENVIRONMENT, deployment_of, write_folder

from cab.adapters.cedar.checks import check_policies, never_permitted
from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.cedar.rules import statements
from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.configuration.problems import ConfigurationRefused, Problem
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Deny
from cab.use_cases.people.enabled_actions import enabled_actions

ANY = "(principal, action, resource)"


def mistakes_of(checked: Deployment) -> list[Problem]:
    """What is wrong with the rules themselves; that tokens may beat them is told in test_sidesteps."""
    _, problems = check_policies(checked, checked.policies)
    return [item for item in problems if item.file != "policies" and "can be sidestepped" not in item.message]


# What stands in a file, the line of the mistake, its message, its remedy.
MISTAKES: dict[str, tuple[str, int, str, str]] = {
    "no policy in the file": ("// nothing yet\n", 1, "the file holds no policy", "add a policy or remove the file"),
    "no @id": (f"\npermit {ANY};", 2, "the policy has no usable @id", 'write @id("short-name") above it: letters, digits, . _ -, at most 80'),
    "an empty @id": (f'@id("") permit {ANY};', 1, "the policy has no usable @id", 'write @id("short-name") above it: letters, digits, . _ -, at most 80'),
    "an @id of two words": (f'@id("a b") permit {ANY};', 1, "the policy has no usable @id", 'write @id("short-name") above it: letters, digits, . _ -, at most 80'),
    "the same @id twice": (f"{PLAIN}\n{PLAIN}", 2, '@id("plain") is already used at policies/p0.cedar:1', "give every policy an @id of its own"),
    "a misspelt annotation": (f'@id("a") @confrim("Sure?") permit {ANY};', 1, "@confrim is not an annotation the broker knows", "did you mean `confirm`?"),
    "a question without words": (f'@id("a") @confirm permit {ANY};', 1, "@confirm has no sentence to show", "write one line of at most 200 characters for the user"),
    "a question of many lines": (f'@id("a") @confirm("a\\nb") permit {ANY};', 1, "@confirm has no sentence to show", "write one line of at most 200 characters for the user"),
    "a question on a forbid": (f'@id("a") @confirm("Sure?") forbid {ANY};', 1, "@confirm on a forbid has no meaning", "put it on the permit, or remove it"),
    "a step-up on a forbid": (f'@id("a") @max_age("60") forbid {ANY};', 1, "@max_age on a forbid has no meaning", "put it on the permit, or remove it"),
    "an age that is no number": (f'@id("a") @max_age("5m") permit {ANY};', 1, "@max_age is not a number of seconds", 'write @max_age("300"): 1 to 86400'),
    "an age of years": (f'@id("a") @max_age("99999") permit {ANY};', 1, "@max_age is not a number of seconds", 'write @max_age("300"): 1 to 86400'),
    "a level without a name": (f'@id("a") @acr(" ") permit {ANY};', 1, "@acr names no authentication level", 'write @acr("level") or several levels separated by one space'),
    "a template": ('@id("a") permit (principal == ?principal, action, resource);', 1, "templates (?principal, ?resource) are never linked by the broker", "name the principal and the resource, or move the condition into `when`"),
    "no semicolon at the end": (f'@id("a") permit {ANY}\n// the end', 2, "not valid Cedar: unexpected end of input", "end every policy with `;`"),
    "a wrong operator": (f'@id("a")\npermit {ANY}\nwhen {{\n  context.trigger\n    === "x"\n}};', 5, "not valid Cedar: unexpected token `=`", "correct the Cedar syntax here"),
    "a quote of the wrong kind": (f'// first\n@id("a")\npermit {ANY} when {{\n  context.trigger == \'x\'\n}};', 4, "not valid Cedar: invalid token", "correct the Cedar syntax here"),
    "a scope cut short": ('@id("a") permit (principal, action);', 1, "not valid Cedar: this policy is missing the `resource` variable in the scope", "correct the Cedar syntax here"),
    "an unknown function": (f'@id("a") permit {ANY} when {{ now() }};', 1, "not valid Cedar: `now` is not a valid function", "correct the Cedar syntax here"),
    "two annotations alike": (f'@id("a") @id("b") permit {ANY};', 1, "not valid Cedar: duplicate annotation: @id", "correct the Cedar syntax here"),
    "prose": ("everything is allowed\n", 1, "not valid Cedar: unexpected token `is`", "correct the Cedar syntax here"),
    "YAML": ("policies:\n  - allow: all\n", 1, "not valid Cedar: unexpected token `:`", "correct the Cedar syntax here"),
    "a byte of nothing": (f'@id("a") permit {ANY};\x00', 1, "not valid Cedar: invalid token", "correct the Cedar syntax here"),
    "an unknown attribute": (f'@id("a") permit {ANY}\nwhen {{\n  context.tsak.present }};', 3, 'a: attribute `tsak` in context for CAB::Action::"crm.deal.list" not found', "see docs/policies.md for the attributes, connections.yaml for the parameters of each action"),
    "an unguarded optional parameter": ('@id("a") permit (principal, action == CAB::Action::"crm.deal.update", resource)\nwhen { context.parameters.amount > 5 };', 2, 'a: unable to guarantee safety of access to optional attribute `parameters.amount` in context for CAB::Action::"crm.deal.update"', "guard it: `context.parameters has amount && ...`"),
    "a comparison of types": ('@id("a") permit (principal, action == CAB::Action::"crm.deal.update", resource)\nwhen { context.parameters.stage > 5 };', 1, "a: unexpected type: expected Long but saw String", "see docs/policies.md for the types policies may use"),
    "an unknown action": ('@id("a") permit (principal,\n action == CAB::Action::"crm.deal.updat", resource);', 2, 'a: unrecognized action `CAB::Action::"crm.deal.updat"`', "did you mean `crm.deal.update`?"),
    "an unknown group": ('@id("a") permit (\n principal in CAB::Group::"sale", action, resource);', 2, 'a: entity `CAB::Group::"sale"` is of an enumerated entity type, but `"sale"` is not declared as a valid eid', "did you mean `sales`?"),
    "an unknown connection": ('@id("a") permit (principal, action,\n resource in CAB::Connection::"cmr");', 2, 'a: entity `CAB::Connection::"cmr"` is of an enumerated entity type, but `"cmr"` is not declared as a valid eid', "did you mean `crm`?"),
    "a type without its namespace": ('@id("a") permit (principal in Group::"sales", action, resource);', 1, "a: unrecognized entity type `Group`", "write the type with its namespace: CAB::User, CAB::Group, CAB::Action, CAB::Resource, CAB::Connection"),
    "a misspelt trigger": (f'@id("a") forbid {ANY}\nwhen {{ context.trigger == "scheduled" }};', 2, "a: context.trigger is never `scheduled`", "did you mean `schedule`?"),
    "a misspelt comparison": (f'@id("a") permit {ANY}\nwhen {{ "witin" == context.task.comparison }};', 2, "a: context.task.comparison is never `witin`", "did you mean `within`?"),
    "a misspelt word in a set": (f'@id("a") forbid {ANY}\nwhen {{ ["event", "shedule"].contains(context.trigger) }};', 2, "a: context.trigger is never `shedule`", "did you mean `schedule`?"),
    "a misspelt agent in a chain": (f'@id("a") forbid {ANY} when {{ context.chain.contains("asistant") }};', 1, "a: context.chain is never `asistant`", "did you mean `assistant`?"),
    "a pattern that matches no weekday": (f'@id("a") forbid {ANY} when {{ context.time.weekday like "Sat*" }};', 1, "a: context.time.weekday is never `Sat*`", "known here: `friday`, `monday`, `saturday`, `sunday`, `thursday`, `tuesday`, `wednesday`"),
    "a value no parameter has": ('@id("a") forbid (principal, action == CAB::Action::"crm.deal.update", resource) when { context.parameters.stage == "lost" };', 1, "a: context.parameters.stage is never `lost`", "known here: `open`, `won`"),
    "a tenant nobody has": (f'@id("a") forbid {ANY} when {{ principal.tenant == "acne" }};', 1, "a: principal.tenant is never `acne`", "did you mean `acme`?"),
    "a misspelt agent inside a record": (f'@id("a") forbid {ANY} when {{ context.agent == {{id: "asistant", trust_zone: "internal", mode: "token"}} }};', 1, "a: context.agent.id is never `asistant`", "did you mean `assistant`?"),
    "a misspelt word behind if": (f'@id("a") forbid {ANY} when {{ context.trigger == (if principal.tenant == "acme" then "evnt" else "schedule") }};', 1, "a: context.trigger is never `evnt`", "did you mean `event`?"),
    "an undeclared trust zone": (f'@id("a") forbid {ANY}\nwhen {{ context.agent.trust_zone == "extern" }};', 2, "a: context.agent.trust_zone is never `extern`", "known here: `internal`"),
    "a user by name": ('@id("a") forbid (\n principal == CAB::User::"alice", action, resource);', 2, "a: `alice` is not the key of any user", "write policies for groups; a user's key is the `sub` of their assertions, 43 letters, digits, - and _"),
    "a user by name in a condition": (f'@id("a") forbid {ANY}\nunless {{ [CAB::User::"bob@acme.test"].contains(principal) }};', 2, "a: `bob@acme.test` is not the key of any user", "write policies for groups; a user's key is the `sub` of their assertions, 43 letters, digits, - and _"),
    "a resource that no action has": ('@id("a") forbid (principal, action,\n resource == CAB::Resource::"crm/del/0061");', 2, "a: no action of this rule has a resource `crm/del/0061`", "did you mean `crm/deal/*`?"),
    "a resource at an unknown connection": (f'@id("a") forbid {ANY}\nwhen {{ resource == CAB::Resource::"cmr/deal/0061" }};', 2, "a: no action of this rule has a resource `cmr/deal/0061`", "did you mean `crm/deal/*`?"),
    "an identifier that no action has": (f'@id("a") forbid {ANY}\nwhen {{ resource.identifier == "deals/0061" }};', 2, "a: no action of this rule has an identifier `deals/0061`", "did you mean `deal/*`?"),
    "a pattern of identifiers that no action has": (f'@id("a") forbid {ANY}\nwhen {{ resource.identifier like "deals/*" }};', 2, "a: no action of this rule has an identifier `deals/*`", "did you mean `deal/*`?"),
    "an hour after the last": (f'@id("a") forbid {ANY}\nwhen {{ context.time.hour_utc == 24 }};', 2, "a: context.time.hour_utc is never 24", "it is 0 to 23"),
    "an hour after the last in a set": (f'@id("a") forbid {ANY}\nwhen {{ [22, 23, 24].contains(context.time.hour_utc) }};', 2, "a: context.time.hour_utc is never 24", "it is 0 to 23"),
    "an hour that is never later": (f'@id("a") forbid {ANY}\nwhen {{ context.time.hour_utc > 23 }};', 2, "a: context.time.hour_utc > 23 is never true", "it is 0 to 23"),
    "an hour that is always earlier": (f'@id("a") forbid {ANY}\nunless {{ 180 > context.time.hour_utc }};', 2, "a: context.time.hour_utc < 180 is always true", "it is 0 to 23"),
    "an hour below zero": (f'@id("a") forbid {ANY}\nwhen {{ context.time.hour_utc <= -1 }};', 2, "a: context.time.hour_utc <= -1 is never true", "it is 0 to 23"),
    "an amount that no intent can have": ('@id("a") forbid (principal, action == CAB::Action::"crm.deal.update", resource)\nwhen { context.parameters has amount && context.parameters.amount > 1000 };', 2, "a: context.parameters.amount > 1000 is never true", "it is 0 to 1000"),
    "a text longer than the parameter": ('@id("a") forbid (principal, action == CAB::Action::"crm.deal.list", resource) when { context.parameters has account && context.parameters.account == "' + "x" * 501 + '" };', 1, "a: context.parameters.account is never as long as that", "it has at most 500 characters"),
    "a parameter whose presence nobody declared": ('@id("a") forbid (principal, action == CAB::Action::"crm.deal.update", resource)\nwhen { context.parameters has amuont && context.parameters.amuont > 5 };', 2, "a: there is no context.parameters.amuont in this rule", "did you mean `amount`?"),
    "an attribute whose presence nobody declared": (f'@id("a") forbid {ANY}\nwhen {{ context.auth has age && context.auth.age > 5 }};', 2, "a: there is no context.auth.age in this rule", "did you mean `age_s`?"),
    "a principal of another kind": (f'@id("a") forbid {ANY}\nwhen {{ principal is CAB::Group }};', 2, "a: principal is never a CAB::Group", "it is always a CAB::User; remove the test"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message", "remedy"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_reported_with_file_line_and_remedy(text: str, line: int, message: str, remedy: str) -> None:
    broken = deployment(text)
    _, problems = check_policies(broken, broken.policies)
    assert Problem("policies/p0.cedar", line, message, remedy) in problems, problems


@pytest.mark.parametrize("text", [case[0] for case in MISTAKES.values()], ids=MISTAKES.keys())
def test_a_broken_policy_is_never_enforced_even_beside_a_good_file(text: str) -> None:
    with pytest.raises(ConfigurationRefused) as refused:
        engine(text, PLAIN.replace("plain", "good"))
    assert refused.value.problems


@pytest.mark.parametrize("text", [case[0] for case in MISTAKES.values()], ids=MISTAKES.keys())
def test_a_folder_with_a_broken_policy_never_decides(text: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path, policies__zz_broken=text)
    with pytest.raises(ConfigurationRefused):
        CedarPolicyEngine(FolderConfiguration(root, ENVIRONMENT).load())


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"x" * 600_000])
def test_a_folder_without_readable_policies_does_not_load(content: bytes | None, tmp_path: Path) -> None:
    root = write_folder(tmp_path, policies__sales=content)
    with pytest.raises(ConfigurationRefused):
        CedarPolicyEngine(FolderConfiguration(root, ENVIRONMENT).load())


def test_an_engine_without_any_policy_is_refused() -> None:
    with pytest.raises(ConfigurationRefused) as refused:
        engine()
    assert [problem.message for problem in refused.value.problems] == ["there is no policy at all"]


def test_a_broken_candidate_is_refused_too() -> None:
    with pytest.raises(ConfigurationRefused):
        engine(PLAIN, candidates=("permit",))


def test_the_same_id_in_two_files_is_ambiguous() -> None:
    with pytest.raises(ConfigurationRefused) as refused:
        engine(PLAIN, PLAIN)
    assert refused.value.problems[0].file == "policies/p1.cedar"


def test_all_mistakes_are_collected() -> None:
    broken = deployment(f'permit {ANY};\n@id("b") permit {ANY} when {{ context.nothing }};', "permit")
    _, problems = check_policies(broken, broken.policies)
    assert {(problem.file, problem.line) for problem in problems if problem.severity == "error"} == {
        ("policies/p0.cedar", 1),
        ("policies/p0.cedar", 2),
        ("policies/p1.cedar", 1),
    }


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (PLAIN, "plain permits changes without looking at the task"),
        (f'@id("a") @confirm("Sure?") permit {ANY};', "a asks the user to confirm even what is outside the task"),
        ('@id("a") permit (principal, action in [CAB::Action::"read"], resource);', None),
        (f'@id("a") permit {ANY} when {{ context.task.comparison == "within" }};', None),
        (f'@id("a") forbid {ANY};', None),
    ],
)
def test_a_permit_of_changes_that_ignores_the_task_is_pointed_out(policy: str, message: str | None) -> None:
    checked = deployment(policy)
    _, problems = check_policies(checked, checked.policies)
    about_rules = [problem for problem in problems if problem.file != "policies"]
    assert [(problem.message, problem.severity) for problem in about_rules] == (
        [(message, "warning")] if message else []
    )


@pytest.mark.parametrize(
    "condition",
    [
        'resource.identifier like "deal/00*"',
        'resource.identifier like "*/0061"',
        'resource.identifier like "d*l/*6*"',
        'resource.identifier == "deal/0061"',
        'resource == CAB::Resource::"crm/deal/0061"',
        'principal == CAB::User::"LbQk3QnVmmWbh0hgdXeGPjl5Yd5bRnVxw0ghkCCzX3E"',
        "context.time.hour_utc >= 8 && context.time.hour_utc < 20",
        "[0, 23].contains(context.time.hour_utc)",
        "context.parameters has amount && context.parameters.amount >= 1000",
        "context.auth has acr && context.auth has age_s && context.auth.age_s < 60",
        'context.agent.trust_zone == "internal"',
        "principal is CAB::User",
    ],
)
def test_what_can_occur_may_be_named(condition: str) -> None:
    checked = deployment(
        f'@id("a") forbid (principal, action in [CAB::Action::"write"], resource) when {{ {condition} }};'
    )
    assert mistakes_of(checked) == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("context.time.hour_utc < 24", "a: context.time.hour_utc < 24 is always true"),
        ("0 <= context.time.hour_utc", "a: context.time.hour_utc >= 0 is always true"),
        ('context.agent.trust_zone == "partner"', "a: no agent is in the trust zone `partner`"),
        ('context.agent.trust_zone like "part*"', "a: no agent is in the trust zone `part*`"),
    ],
)
def test_what_changes_nothing_is_pointed_out(condition: str, message: str) -> None:
    checked = deployment(f'@id("a") forbid {ANY} when {{ {condition} }};')
    checked = replace(checked, broker=checked.broker.model_copy(update={"trust_zones": ("internal", "partner")}))
    _, problems = check_policies(checked, checked.policies)
    about_rules = [problem for problem in problems if problem.file != "policies"]
    assert [(problem.message, problem.severity) for problem in about_rules] == [(message, "warning")]


def test_an_identifier_of_another_action_is_pointed_out() -> None:
    checked = deployment(
        '@id("a") forbid (principal, action == CAB::Action::"crm.deal.list", resource) when { resource.identifier == "deal/1" };'
    )
    assert [(problem.message, problem.severity) for problem in mistakes_of(checked)] == [
        ("a: no action of this rule has an identifier `deal/1`", "warning")
    ]


def test_a_rule_about_a_connection_none_of_its_actions_is_at_never_matches(tmp_path: Path) -> None:
    two = CONNECTIONS + CONNECTIONS[CONNECTIONS.index("  - id: crm\n") :].replace("crm.deal", "tracker.task").replace(
        "- id: crm\n", "- id: tracker\n"
    ).replace("${CRM_ORIGIN}", "https://tracker.test")
    base = deployment_of(tmp_path, connections=two)
    text = (
        '@id("a") forbid (principal, action == CAB::Action::"tracker.task.list",\n resource in CAB::Connection::"crm")\n'
        'when { resource.connection == "crm" };'
    )
    _, problems = check_policies(replace(base, policies=(("policies/p0.cedar", text),)), (("policies/p0.cedar", text),))
    assert [str(problem) for problem in problems if problem.severity == "error"] == [
        "policies/p0.cedar:2: error: a: no action of this rule is at connection `crm`; known here: `tracker`",
        "policies/p0.cedar:2: error: a: resource.connection is never `crm`; known here: `tracker`",
    ]


def test_people_are_promised_no_action_that_no_policy_permits() -> None:
    checked = deployment('@id("a") permit (principal, action == CAB::Action::"crm.deal.list", resource);')
    assert never_permitted(checked) == {"crm.deal.update"}
    crm = checked.connection_by_id["crm"]
    assert [item.action.id for item in enabled_actions(checked, crm, "acme")] == ["crm.deal.list", "crm.deal.update"]
    told = replace(checked, never_permitted=never_permitted(checked))
    assert [item.action.id for item in enabled_actions(told, crm, "acme")] == ["crm.deal.list"]


def test_an_action_that_no_policy_permits_is_pointed_out() -> None:
    checked = deployment('@id("a") permit (principal, action == CAB::Action::"crm.deal.list", resource);')
    _, problems = check_policies(checked, checked.policies)
    assert [problem.message for problem in problems] == ["no policy permits crm.deal.update to anyone"]


@pytest.mark.parametrize("name", ["a;b", "// no", 'say \\"no; //'])
def test_files_are_cut_outside_strings_and_comments_only(name: str) -> None:
    text = f'// a; b\n@id("one") permit {ANY} unless {{ "{name}" == context.trigger }}; // "\n\n  @id("two")\nforbid {ANY};\n'
    assert [(part.line, part.text[:10]) for part in statements(text)] == [(2, '@id("one")'), (4, '@id("two")')]


def test_a_string_may_span_lines_without_moving_the_lines_behind_it() -> None:
    text = f'@id("one") permit {ANY} when {{ "a\nb" == context.trigger }};\n@id("two") forbid {ANY};'
    assert [part.line for part in statements(text)] == [1, 3]


def test_no_broken_policy_set_ever_answered_anything_but_a_refusal() -> None:
    """The sum of the cases above: 0 permits out of all broken policies."""
    permitted = 0
    for text, *_ in MISTAKES.values():
        try:
            policy_engine = engine(text, PLAIN.replace("plain", "good"))
        except ConfigurationRefused:
            continue
        permitted += sum(not isinstance(policy_engine.evaluate(r).decision, Deny) for r in (UPDATE, LIST))
    assert permitted == 0
    assert len(MISTAKES) >= 20
