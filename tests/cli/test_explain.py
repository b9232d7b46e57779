"""`cab explain`: every kind of decision, with the check and the rule behind it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cab_ops.cli.explain.command import explain_command

ACME = Path(__file__).resolve().parents[2] / "examples" / "acme"
ORIGIN = "http://127.0.0.1:8080"
CRM, TRACKER, WAREHOUSE = (f"http://127.0.0.1:{port}" for port in (8082, 8083, 8084))
ENVIRONMENT = {
    "CAB_ORIGIN": ORIGIN,
    "ACME_IDP_ORIGIN": "http://127.0.0.1:8081",
    "ACME_CRM_ORIGIN": CRM,
    "ACME_TRACKER_ORIGIN": TRACKER,
    "ACME_WAREHOUSE_ORIGIN": WAREHOUSE,
}
TASK = {"task_id": "t-81", "actions": ["crm.opportunity.*", "tracker.*"], "identifiers": ["opportunity/*", "task/*"]}
NOON = "2026-11-21T12:00:00Z"


def intent(
    action: str = "crm.opportunity.read", identifier: str = "opportunity/0061", **members: Any
) -> dict[str, Any]:
    location = {"crm": CRM, "tracker": TRACKER, "warehouse": WAREHOUSE}[action.partition(".")[0]]
    return {"type": "cab_action", "actions": [action], "locations": [location], "identifier": identifier, **members}


def task_create(**parameters: Any) -> dict[str, Any]:
    return intent("tracker.task.create", "task/*", parameters={"title": "Call back", **parameters})


def request(detail: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """What alice's assistant asks in her task; keyword arguments of the assertion begin with `a_`."""
    detail = detail or intent()
    assertion = {"subject": "alice", "groups": ["sales"], "task": TASK}
    assertion |= {name.removeprefix("a_"): value for name, value in members.items() if name.startswith("a_")}
    whole = {
        "agent": "sales-assistant",
        "assertion": {name: value for name, value in assertion.items() if value is not None},
        "authorization_details": [detail],
        "resource": detail["locations"][0],
        "at": NOON,
    }
    whole |= {name: value for name, value in members.items() if not name.startswith("a_")}
    return {name: value for name, value in whole.items() if value is not None}


def run(document: Any, *arguments: str, folder: Path = ACME, environment: dict[str, str] | None = None) -> Result:
    text = document if isinstance(document, str) else json.dumps(document)
    runner = CliRunner(env=ENVIRONMENT if environment is None else environment)
    return runner.invoke(explain_command, ["-", "--config", str(folder), *arguments], input=text)


def answer(document: Any, **options: Any) -> dict[str, Any]:
    result = run(document, "--json", **options)
    assert result.exit_code == 0, result.output
    explained: dict[str, Any] = json.loads(result.stdout)
    return explained


def results(explained: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["result"] for check in explained["checks"]}


def summary(explained: dict[str, Any]) -> tuple[str, str | None, str | None]:
    return explained["decision"], explained["error"], explained["reason_code"]


def test_a_permit_names_its_rule_with_file_line_and_text_and_what_would_be_issued() -> None:
    explained = answer(request())
    assert summary(explained) == ("permit", None, None)
    (rule,) = explained["rules"]
    source = (ACME / rule["file"]).read_text().splitlines()
    assert (rule["id"], rule["file"]) == ("sales-read", "policies/sales.cedar")
    assert source[rule["line"] - 1] == '@id("sales-read")'
    assert rule["text"].splitlines()[0] == source[rule["line"] - 1]
    assert explained["granted"]["kind"] == "downstream"
    assert explained["granted"]["scope"] == "opportunity.read"
    assert explained["granted"]["intent_hash"].startswith("sha-256:")
    assert results(explained)["grant"] == "open"


def test_a_broker_token_needs_no_grant() -> None:
    explained = answer(request(intent("warehouse.query.run", "query/revenue"), a_task=None))
    assert summary(explained) == ("permit", None, None)
    assert explained["granted"]["kind"] == "broker_jwt"
    assert results(explained)["grant"] == "passed"


def test_a_confirmation_shows_the_prompt_and_both_rules() -> None:
    explained = answer(request(task_create(priority="high")))
    assert summary(explained) == ("confirm", "interaction_required", "confirmation_required")
    assert [rule["id"] for rule in explained["rules"]] == ["sales-task-create", "sales-task-create-high"]
    confirmation = next(check for check in explained["checks"] if check["check"] == "confirmation")
    assert confirmation["inputs"] == {"prompts": ["Creates a task of high priority."]}
    assert explained["granted"]["scope"] == "task.write"


def test_defaults_of_the_catalog_are_said_to_be_filled_in() -> None:
    catalog = next(check for check in answer(request(task_create()))["checks"] if check["check"] == "action catalog")
    assert catalog["finding"] == "fits the catalog entry, effect write; filled in: priority=normal"
    assert catalog["source"].startswith("connections.yaml:")


def test_an_intent_outside_the_task_is_decided_by_the_task_whatever_policy_says() -> None:
    explained = answer(request(intent("crm.opportunity.delete"), a_task=TASK | {"actions": ["crm.opportunity.read"]}))
    assert summary(explained) == ("deny", "invalid_authorization_details", "intent_outside_task")
    assert explained["decided_by"] == "task bounds"
    assert explained["granted"] is None


def test_a_write_without_a_task_is_outside_and_a_read_is_not() -> None:
    assert answer(request(a_task=None))["decision"] == "permit"
    explained = answer(request(task_create(), a_task=None))
    assert (explained["reason_code"], explained["decided_by"]) == ("intent_outside_task", "task bounds")


def test_a_task_id_without_a_task_is_outside_even_for_a_read() -> None:
    explained = answer(request(intent(task_id="t-99"), a_task=None))
    assert (explained["reason_code"], results(explained)["task bounds"]) == ("intent_outside_task", "failed")


def test_an_action_off_the_agents_list_ends_before_policy() -> None:
    explained = answer(request(agent="ops-bot", detail=intent("warehouse.query.run", "query/x"), a_task=None))
    assert summary(explained) == ("deny", "invalid_authorization_details", "action_not_allowed_for_agent")
    assert explained["decided_by"] == "agent allow-list"
    assert results(explained)["policy"] == "not reached"
    assert [check["source"] for check in explained["checks"] if check["check"] == "agent allow-list"] == [
        explained["checks"][0]["source"]
    ]


def test_a_denial_by_no_rule_names_the_rules_that_speak_of_the_action() -> None:
    result = run(request(a_groups=["ops"], detail=task_create()))
    assert "deny (policy_denied) by no rule" in result.stdout
    assert "did not decide: " in result.stdout
    assert "sales-task-create (policies/sales.cedar:" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "decision: deny  error: invalid_authorization_details  reason_code: policy_denied  decided by: policy"
    )


def test_a_forbid_is_named_as_the_determining_rule() -> None:
    explained = answer(request(task_create(), a_task=TASK | {"trigger": "schedule"}))
    assert explained["reason_code"] == "policy_denied"
    assert [rule["id"] for rule in explained["rules"]] == ["unattended-never-writes"]


@pytest.mark.parametrize(
    ("changes", "error", "reason_code", "decided_by"),
    [
        ({"agent": "nobody"}, "invalid_client", "client_authentication_failed", "client authentication"),
        ({"a_may_act": "ops-bot"}, "invalid_request", "may_act_violated", "may_act"),
        ({"a_tenant": "globex"}, "invalid_request", "subject_token_invalid", "tenant"),
        ({"resource": "http://127.0.0.1:9"}, "invalid_target", "target_unknown", "target"),
        ({"resource": None}, "invalid_target", "target_missing", "target"),
        ({"audience": "crm"}, "invalid_target", "target_repeated", "target"),
        ({"authorization_details": None}, "invalid_authorization_details", "intent_missing", "intent"),
        ({"authorization_details": "[}"}, "invalid_authorization_details", "intent_malformed", "intent"),
        ({"resource": TRACKER}, "invalid_authorization_details", "intent_malformed", "action catalog"),
        (
            {"detail": intent(locations=[TRACKER]), "resource": CRM},
            "invalid_authorization_details",
            "location_mismatch",
            "action catalog",
        ),
        ({"scope": "opportunity.delete"}, "invalid_scope", "scope_not_grantable", "scopes"),
    ],
)
def test_every_refusal_before_the_decision_is_that_of_the_exchange(
    changes: dict[str, Any], error: str, reason_code: str, decided_by: str
) -> None:
    explained = answer(request(**changes))
    assert summary(explained) == ("deny", error, reason_code)
    assert explained["decided_by"] == decided_by
    assert results(explained)["policy"] == "not reached"


def test_the_member_at_fault_is_named() -> None:
    explained = answer(request(task_create(priority="urgent")))
    assert (explained["reason_code"], explained["parameter"]) == ("intent_malformed", "parameters.priority")


def claims(**changes: Any) -> dict[str, Any]:
    """An assertion as `cab dev assertion` mints it, decoded."""
    return {
        "iss": f"{ORIGIN}/edge",
        "aud": f"{ORIGIN}/oauth2",
        "sub": "opaque",
        "tenant": "acme",
        "idp": {"iss": "http://127.0.0.1:8081", "sub_hash": "h"},
        "groups": ["sales"],
        "client_id": "acme-web",
        "may_act": {"sub": "sales-assistant"},
        "txn": "t",
        "iat": 1795262300,
        "exp": 1795262600,
        "jti": "j",
        **changes,
    }


def test_decoded_claims_are_taken_as_they_are() -> None:
    explained = answer(request() | {"assertion": claims()})
    assert (explained["decision"], explained["subject"]) == ("permit", "opaque")


@pytest.mark.parametrize(
    ("changes", "reason_code"),
    [
        ({"iat": 1795260000, "exp": 1795260300}, "subject_token_expired"),
        ({"iss": "https://other.test/edge"}, "subject_token_invalid"),
        ({"aud": "https://other.test"}, "subject_token_invalid"),
        ({"exp": 1795262300 + 3600}, "subject_token_invalid"),
    ],
)
def test_claims_that_the_verifier_refuses_are_refused(changes: dict[str, Any], reason_code: str) -> None:
    explained = answer(request() | {"assertion": claims(**changes)})
    assert (explained["reason_code"], explained["decided_by"]) == (reason_code, "assertion")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo organisation to change."""
    shutil.copytree(ACME, tmp_path / "acme", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return tmp_path / "acme"


def test_a_step_up_says_how_fresh_the_login_must_be(folder: Path) -> None:
    policies = folder / "policies" / "sales.cedar"
    policies.write_text(policies.read_text().replace('@id("sales-read")', '@id("sales-read")\n@max_age("300")'))
    explained = answer(request(a_auth_time="2026-11-21T11:00:00Z"), folder=folder)
    assert summary(explained) == ("deny", "insufficient_user_authentication", "step_up_required")
    assert (explained["max_age"], explained["decided_by"]) == (300, "policy")
    assert answer(request(a_auth_time="2026-11-21T11:59:00Z"), folder=folder)["decision"] == "permit"


def test_a_policy_that_asks_beyond_the_task_is_a_question_and_no_permit(folder: Path) -> None:
    (folder / "policies" / "elsewhere.cedar").write_text(
        '@id("elsewhere")\n@confirm("Not part of your request.")\n'
        'permit (principal, action == CAB::Action::"tracker.task.create", resource)\n'
        'when { context.task.comparison == "identifier_outside" };\n'
    )
    explained = answer(request(task_create(), a_task=TASK | {"identifiers": ["opportunity/*"]}), folder=folder)
    assert summary(explained) == ("confirm", "interaction_required", "confirmation_required")
    assert results(explained)["task bounds"] == "asks"


def test_an_evaluation_error_is_a_policy_error_with_the_failing_rule(folder: Path) -> None:
    (folder / "policies" / "overflow.cedar").write_text(
        '@id("overflow")\nforbid (principal, action == CAB::Action::"crm.opportunity.update", resource)\n'
        "when { context.parameters has amount_cents && context.parameters.amount_cents * 9000000000000 == 1 };\n"
    )
    update = intent("crm.opportunity.update", parameters={"amount_cents": 999_999_999_999})
    explained = answer(request(update), folder=folder)
    assert explained["reason_code"] == "policy_error"
    assert [rule["id"] for rule in explained["rules"]] == ["overflow"]


def test_candidate_policies_of_which_none_matches_are_shown_as_far_as_they_speak_of_the_action(folder: Path) -> None:
    (folder / "policies_candidate").mkdir()
    (folder / "policies_candidate" / "sales.cedar").write_text(
        '@id("ops-only") permit (principal in CAB::Group::"ops", action in [CAB::Action::"read"], resource);'
    )
    explained = answer(request(), folder=folder)
    assert explained["candidate"]["decision"] == "deny (policy_denied) by no rule"
    assert [rule["id"] for rule in explained["candidate"]["rules"]] == ["ops-only"]


def test_what_candidate_policies_would_decide_is_shown_where_it_differs(folder: Path) -> None:
    (folder / "policies_candidate").mkdir()
    (folder / "policies_candidate" / "sales.cedar").write_text(
        '@id("nothing")\nforbid (principal, action, resource);\n'
    )
    explained = answer(request(), folder=folder)
    assert explained["decision"] == "permit"
    assert explained["candidate"]["decision"] == "deny (policy_denied) by nothing"
    assert explained["candidate"]["rules"][0]["file"] == "policies_candidate/sales.cedar"
    assert explained["candidate"]["differs"]


def test_candidate_rules_are_shown_where_they_agree_too(folder: Path) -> None:
    """They were shown only where they differ: whoever tries a set could not see that it was tried at all."""
    assert answer(request(), folder=folder)["candidate"] is None
    shutil.copytree(folder / "policies", folder / "policies_candidate")
    explained = answer(request(), folder=folder)
    assert explained["candidate"]["decision"] == "permit by sales-read"
    assert not explained["candidate"]["differs"]
    assert [(rule["id"], rule["file"]) for rule in explained["candidate"]["rules"]] == [
        ("sales-read", "policies_candidate/sales.cedar")
    ]


def test_an_agent_that_needs_a_task_gets_no_read_without_one(folder: Path) -> None:
    agents = folder / "agents.yaml"
    agents.write_text(
        agents.read_text().replace("delegates_to: [ops-bot]", "delegates_to: [ops-bot]\n    task: required")
    )
    explained = answer(request(a_task=None), folder=folder)
    assert (explained["reason_code"], explained["decided_by"]) == ("intent_outside_task", "task bounds")


def test_an_agent_in_call_mode_is_refused_tokens(folder: Path) -> None:
    agents = folder / "agents.yaml"
    agents.write_text(agents.read_text().replace("mode: both", "mode: call"))
    explained = answer(request(mode="token"), folder=folder)
    assert (explained["reason_code"], explained["decided_by"]) == ("grant_type_not_allowed", "agent mode")


def test_variables_without_a_value_are_named_and_requests_may_refer_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no local stack here
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    reads = intent(locations=["${ACME_CRM_ORIGIN}"])
    explained = answer(request(reads), environment={})
    assert explained["decision"] == "permit"
    assert explained["unset_variables"] == list(ENVIRONMENT)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not a strict JSON object"),
        ('{"agent": "a", "agent": "b"}', "is not a strict JSON object: duplicate member"),
        ({"agent": "a"}, "assertion is missing"),
        (request() | {"assertions": {}}, "assertions is not known here; did you mean `assertion`?"),
        (request() | {"agent": 7}, "agent must be text"),
        (request() | {"assertion": "e30.e30.e30"}, "assertion must be decoded claims, not a token"),
        (request(a_groups="sales"), "assertion.groups must be an array"),
        (request(a_subject=None), "assertion.subject is missing"),
        (request(a_task={"task_id": "t", "actions": ["crm.*"]}), "assertion.task: identifiers is missing"),
        (request(a_task=TASK | {"limit": 1}), "assertion.task: authorization_details has a member that is not defined"),
        (request() | {"at": "yesterday"}, "at must be an RFC 3339 instant"),
        (request() | {"at": "2026-11-21T12:00:00"}, "at needs a time zone"),
        (request() | {"resource": "${HOME}"}, "${HOME} is not declared"),
        (request() | {"assertion": claims(may_act="x")}, "assertion: may_act is malformed"),
        (request() | {"assertion": claims(authorization_details=[{}])}, "assertion.authorization_details: "),
    ],
)
def test_a_file_that_is_no_request_exits_with_2_and_names_the_member(document: Any, message: str) -> None:
    result = run(document)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: <stdin>: {message}")


def test_a_configuration_with_mistakes_exits_with_2(tmp_path: Path) -> None:
    result = run(request(), folder=tmp_path)
    assert result.exit_code == 2
    assert "run `cab config validate" in result.stderr


def test_text_of_the_agent_cannot_act_on_the_terminal() -> None:
    result = run(request(intent(reason="\x1b]0;owned\x07 \u202e")))
    assert "\x1b" not in result.stdout
    assert "\\u001b]0;owned\\u0007 \\u202e" in result.stdout


def test_no_line_of_the_proof_is_wider_than_120_columns() -> None:
    wide = request(
        task_create(priority="high", due="2026-12-01"), a_groups=["sales"] + [f"group-{n}" for n in range(60)]
    )
    lines = run(wide).stdout.splitlines()
    assert max(len(line) for line in lines) <= 120


def test_a_call_that_the_broker_makes_is_explained_with_the_request_that_it_would_send() -> None:
    asked = request(
        task_create(priority="high"), mode="call", a_task=TASK | {"actions": ["tracker.*"], "identifiers": ["*"]}
    )
    explained = answer(asked)
    assert (explained["decision"], explained["reason_code"]) == ("confirm", "confirmation_required")
    sent = explained["granted"]["request"]
    assert (sent["method"], sent["url"]) == ("POST", f"{TRACKER}/tasks")
    assert json.loads(sent["body"]) == {"priority": "high", "title": "Call back"}
    told = run(asked).stdout
    assert f"The broker would send POST {TRACKER}/tasks" in told
    assert sent["request_digest"] in told


def test_an_action_without_a_call_is_not_called() -> None:
    explained = answer(request(intent("warehouse.query.run", "query/q"), mode="call"))
    assert (explained["reason_code"], explained["decided_by"]) == ("call_not_configured", "action catalog")


def test_an_agent_that_only_calls_is_explained_so(folder: Path) -> None:
    agents = folder / "agents.yaml"
    agents.write_text(agents.read_text().replace("mode: both", "mode: call"))
    assert answer(request(), folder=folder)["granted"]["request"]["method"] == "GET"
    assert answer(request(mode="token"), folder=folder)["reason_code"] == "grant_type_not_allowed"


def test_a_refusal_by_a_trust_zone_shows_both_zones(folder: Path) -> None:
    broker, connections = folder / "broker.yaml", folder / "connections.yaml"
    broker.write_text(
        broker.read_text("utf-8").replace("trust_zones: [internal]", "trust_zones: [internal, {id: calls, mode: call}]")
    )
    crm = "    resource: ${ACME_CRM_ORIGIN}\n"
    connections.write_text(connections.read_text("utf-8").replace(crm, f"{crm}    trust_zone: calls\n"))
    explained = answer(request(), folder=folder)
    assert summary(explained) == ("deny", "invalid_target", "target_not_allowed")
    [step] = [one for one in explained["checks"] if one["check"] == "agent mode"]
    assert (step["inputs"]["zone of the agent"], step["inputs"]["zone of the target"]) == ("internal", "calls")
    assert answer(request(mode="call"), folder=folder)["decision"] == "permit"
