"""The user's own yes or no, once, for exactly what was shown (docs/api.md; security.md X7 to X9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, claims_of
from tests.support.web import json_answer
from tests.support.world import CRM, DROP, ORIGIN, REFRESH_GRANTS, World, gather, intent, task

from cab.ports import HttpAnswer

DETAILS = "invalid_authorization_details"
REQUIRED = (400, "interaction_required", "confirmation_required")
REFUSED = (400, "access_denied", "confirmation_refused")
PENDING = (400, "authorization_pending", "authorization_pending")
UNKNOWN_CODE = (400, "invalid_grant", "deferral_code_invalid")
EXPIRED = (400, "expired_token", "deferral_expired")

BOUNDS = task("warehouse.*", task_id="t-81")


async def ask(world: World, declared: dict[str, Any] = DROP, *, user: str = "alice", **changes: Any) -> Answer:
    """The same exchange as often as it is called: fresh assertion, fresh client assertion."""
    bounds = changes.pop("bounds", BOUNDS)
    assertion = await world.assertion(changes.get("agent", "assistant"), user=user, task=bounds)
    return await world.exchange(declared, subject_token=assertion, **changes)


async def defer(world: World, declared: dict[str, Any] = DROP, **changes: Any) -> Answer:
    return await ask(world, declared, completion_mode="deferred", **changes)


# --- asking ---


async def test_a_risky_action_waits_for_the_user(world: World) -> None:
    answer = await ask(world)
    approval_id = answer.json["interaction_uri"].removeprefix(f"{ORIGIN}/approvals/")
    assert len(approval_id) >= 22
    assert answer.status == 400
    assert answer.json == {
        "error": "interaction_required",
        "error_description": "The user must confirm this action in a browser.",
        "reason_code": "confirmation_required",
        "interaction_uri": f"{ORIGIN}/approvals/{approval_id}",
        "txn": answer.txn,
    }
    event = world.last_event()
    assert (event["decision"], event["outcome"], event["confirmation_id"]) == ("confirm", "refused", approval_id)
    assert event["policy"]["determining_rules"] == ["staff-drops"]


async def test_asking_again_is_the_same_question(world: World) -> None:
    uris = {(await ask(world)).json["interaction_uri"] for _ in range(3)}
    assert len(uris) == 1


async def test_parallel_requests_ask_one_question(world: World) -> None:
    world.cloud.documents["guards"].delay_s = 0.001
    answers = await gather(*(ask(world) for _ in range(4)))
    assert {answer.refusal for answer in answers} == {REQUIRED}
    assert len({answer.json["interaction_uri"] for answer in answers}) == 1


# --- plain retry ---


async def test_after_the_users_yes_the_repeated_exchange_gives_the_token_once(world: World) -> None:
    asked = await ask(world)
    await world.decide(asked.json["interaction_uri"], approved=True)
    answer = await ask(world)
    assert answer.status == 200
    assert answer.json["authorization_details"] == [DROP | {"parameters": {}, "task_id": "t-81"}]
    event = world.last_event()
    assert (event["decision"], event["outcome"]) == ("permit", "issued")
    assert asked.json["interaction_uri"].endswith(event["confirmation_id"])
    again = await ask(world)
    assert again.refusal == REQUIRED
    assert again.json["interaction_uri"] != asked.json["interaction_uri"]


async def test_of_many_parallel_retries_one_gets_the_token(world: World) -> None:
    world.cloud.documents["guards"].delay_s = 0.001
    reads = intent("warehouse.table.share", "table/t1")  # a write: no rate limit stands in the way
    await world.decide((await ask(world, reads)).json["interaction_uri"], approved=True)
    answers = await gather(*(ask(world, reads) for _ in range(100)))
    assert sum(answer.status == 200 for answer in answers) == 1
    assert {answer.refusal for answer in answers if answer.status != 200} == {REQUIRED}


async def test_after_the_users_no_the_answer_is_no_until_the_question_ends(world: World) -> None:
    await world.decide((await ask(world)).json["interaction_uri"], approved=False)
    for _ in range(2):
        assert (await ask(world)).refusal == REFUSED
    world.advance(599)
    assert (await ask(world)).refusal == REFUSED
    world.advance(1)
    assert (await ask(world)).refusal == REQUIRED


async def test_a_question_nobody_answers_ends_after_ten_minutes(world: World) -> None:
    first = (await ask(world)).json["interaction_uri"]
    world.advance(599)
    assert (await ask(world)).json["interaction_uri"] == first
    world.advance(1)
    assert (await ask(world)).json["interaction_uri"] != first


@pytest.mark.parametrize(("waited_s", "status"), [(0, 200), (299, 200), (300, 400), (3600, 400)])
async def test_a_yes_is_good_for_five_minutes_from_the_click(world: World, waited_s: int, status: int) -> None:
    uri = (await ask(world)).json["interaction_uri"]
    world.advance(599)
    await world.decide(uri, approved=True)
    world.advance(waited_s)
    assert (await ask(world)).status == status


OTHER_THAN_APPROVED: dict[str, dict[str, Any]] = {
    "another user": {"user": "bob"},
    "another agent": {"agent": "scribe"},
    "another identifier": {"declared": DROP | {"identifier": "table/t2"}},
    "another action": {"declared": intent("warehouse.table.share", "table/t1")},
    "another task": {"bounds": task("warehouse.*", task_id="t-82")},
}


@pytest.mark.parametrize("change", OTHER_THAN_APPROVED.values(), ids=OTHER_THAN_APPROVED.keys())
async def test_a_yes_is_for_what_was_shown_and_nothing_else(world: World, change: dict[str, Any]) -> None:
    await world.decide((await ask(world)).json["interaction_uri"], approved=True)
    assert (await ask(world, **({"declared": DROP} | change))).refusal == REQUIRED
    assert (await ask(world)).status == 200  # the control: unchanged, it is still good


async def test_parameters_are_part_of_what_was_shown_and_the_reason_is_not(world: World) -> None:
    world = World(config=world.write_policies(_CONFIRM_WRITES))

    def write(**parameters: Any) -> dict[str, Any]:
        return intent("warehouse.table.write", "table/t1", parameters=parameters, reason=f"because {len(parameters)}")

    await world.decide((await ask(world, write(note="a"))).json["interaction_uri"], approved=True)
    for changed in (write(), write(note="b"), write(note="a", mode="replace"), write(note="a\u00a0")):
        assert (await ask(world, changed)).status == 400
    assert (await ask(world, write(note="a", mode="append"))).status == 200  # the default, written out


_CONFIRM_WRITES = """
@id("all-confirmed") @confirm("Writes.")
permit (principal, action, resource) when { context.task.comparison == "within" };
"""


async def test_a_yes_to_another_policy_is_no_yes(world: World) -> None:
    await world.decide((await ask(world)).json["interaction_uri"], approved=True)
    world.restart("exchange_token", CAB_CONFIG_DIR=str(world.write_policies(_CONFIRM_WRITES)))
    assert (await ask(world)).refusal == REQUIRED


async def test_where_policy_wants_a_strong_login_the_user_agrees_with_one_too(world: World) -> None:
    """The page demands what the request names (tests/transport/test_approvals.py, "a weaker login than asked")."""
    strong = _CONFIRM_WRITES.replace("permit", '@acr("gold platinum") permit')
    world = World(config=world.write_policies(strong))
    assertion = await world.assertion(task=BOUNDS, acr="gold")
    asked = await world.exchange(DROP, subject_token=assertion)
    assert asked.refusal == REQUIRED
    (request,) = await world.cloud.documents["guards"].find("approval_requests")
    assert request.fields["acr_values"] == "gold platinum"


async def test_a_yes_of_a_weaker_login_is_not_one_where_policy_wants_a_strong_login(world: World) -> None:
    """The same intent and task; but what the user agreed to was asked without that demand."""
    by_schedule = _CONFIRM_WRITES.replace("permit", '@acr("gold") permit').replace('@id("', '@id("strong-')
    by_schedule = by_schedule.replace(";", ' when { context.trigger == "schedule" };')
    world = World(config=world.write_policies(f"{_CONFIRM_WRITES}\n{by_schedule}"))

    async def as_scheduled() -> Answer:
        assertion = await world.assertion(user="alice", task=BOUNDS | {"trigger": "schedule"}, acr="gold")
        return await world.exchange(DROP, subject_token=assertion)

    weak = (await ask(world)).json["interaction_uri"]
    await world.decide(weak, approved=True)
    asked = await as_scheduled()
    assert asked.refusal == REQUIRED
    assert asked.json["interaction_uri"] != weak
    await world.decide(asked.json["interaction_uri"], approved=True)
    assert (await as_scheduled()).status == 200


async def test_a_yes_never_overrides_what_policy_has_come_to_forbid(world: World) -> None:
    await world.decide((await ask(world)).json["interaction_uri"], approved=True)
    nobody = '@id("nobody") permit (principal, action == CAB::Action::"warehouse.query.run", resource);'
    world.restart("exchange_token", CAB_CONFIG_DIR=str(world.write_policies(nobody)))
    assert (await ask(world)).refusal == (400, DETAILS, "policy_denied")


async def test_a_yes_is_spent_even_when_the_audit_log_then_fails(world: World) -> None:
    await world.decide((await ask(world)).json["interaction_uri"], approved=True)
    world.cloud.audit_logs["exchange_token"].is_down = True
    assert (await ask(world)).refusal == (503, "temporarily_unavailable", "audit_unavailable")
    world.cloud.audit_logs["exchange_token"].is_down = False
    assert (await ask(world)).refusal == REQUIRED


async def test_policy_may_turn_what_lies_outside_the_task_into_a_question_and_never_into_a_yes(world: World) -> None:
    share = intent("warehouse.table.share", "table/t9")
    bounds = task("warehouse.query.*", task_id="t-81")
    asked = await ask(world, share, bounds=bounds)
    assert asked.refusal == REQUIRED
    assert world.last_event()["task"]["within"] is False
    await world.decide(asked.json["interaction_uri"], approved=True)
    assert (await ask(world, share, bounds=bounds)).status == 200
    outside = (400, DETAILS, "intent_outside_task")
    assert (await ask(world, bounds=bounds)).refusal == outside
    assert (await ask(world, share, bounds=None)).refusal == outside


async def test_nobody_but_the_approvals_database_can_say_yes(world: World) -> None:
    """What exchange_token itself may write (guards) is no decision."""
    uri = (await ask(world)).json["interaction_uri"]
    guards, approvals = world.cloud.documents["guards"], world.cloud.documents["approvals"]
    await world.decide(uri, approved=True)
    (decision,) = await approvals.find("decisions")
    approvals._documents.clear()
    guards._documents[decision.path] = decision
    assert (await ask(world)).refusal == REQUIRED


async def test_a_deferral_whose_question_was_followed_by_another_has_expired_and_takes_no_yes_of_that(
    world: World,
) -> None:
    first = await defer(world)
    world.advance(601)
    second = await ask(world)
    assert second.json["interaction_uri"] != first.json["interaction_uri"]
    await world.decide(second.json["interaction_uri"], approved=True)
    assert (await world.poll(first.json["deferral_code"])).refusal == EXPIRED
    assert (await ask(world)).status == 200


# --- a yes is spent on something ---

UPDATE = intent("crm.deal.update", "deal/1", parameters={"stage": "won"})
DEALS: dict[str, Any] = {"bounds": task("crm.*", task_id="t-81")}
CRM_SCOPES = ("deal.read", "contact.read", "deal.write", "offline")
CONNECT = f"{ORIGIN}/connect?connection=crm"


def confirming(world: World) -> World:
    return World(config=world.write_policies(_CONFIRM_WRITES))


async def test_who_must_connect_first_is_not_asked_before(world: World) -> None:
    world = confirming(world)
    first = await ask(world, UPDATE, **DEALS)
    assert first.refusal == (400, "interaction_required", "grant_missing")
    assert first.json["interaction_uri"] == CONNECT
    assert await world.cloud.documents["guards"].find("approval_requests") == []
    await world.connect("alice", "crm", *CRM_SCOPES)
    assert (await ask(world, UPDATE, **DEALS)).refusal == REQUIRED


@pytest.mark.parametrize(
    ("status", "reason"),
    [("needs_reauth", "grant_needs_reauth"), ("revoked", "grant_revoked"), ("quarantined", "grant_revoked")],
)
async def test_a_yes_is_not_spent_on_a_grant_that_has_ended(world: World, status: str, reason: str) -> None:
    world = confirming(world)
    grant = await world.connect("alice", "crm", *CRM_SCOPES)
    asked = await defer(world, UPDATE, **DEALS)
    await world.decide(asked.json["interaction_uri"], approved=True)
    await world.set_grant(grant, status=status)
    for refused in (await ask(world, UPDATE, **DEALS), await world.poll(asked.json["deferral_code"])):
        assert refused.refusal == (400, "interaction_required", reason)
        assert refused.json["interaction_uri"] == CONNECT
    await world.set_grant(grant, status="active")
    assert (await ask(world, UPDATE, **DEALS)).status == 200
    world.advance(10)
    assert (await world.poll(asked.json["deferral_code"])).refusal == UNKNOWN_CODE


async def test_a_yes_outlives_a_provider_that_says_only_now_that_the_grant_is_dead(world: World) -> None:
    world = confirming(world)
    grant = await world.connect("alice", "crm", *CRM_SCOPES)
    await world.decide((await ask(world, UPDATE, **DEALS)).json["interaction_uri"], approved=True)

    async def dead(_sent: Any) -> HttpAnswer:
        return json_answer({"error": "invalid_grant"}, 400)

    world.web.hosts[CRM] = dead
    assert (await ask(world, UPDATE, **DEALS)).refusal == (400, "interaction_required", "grant_needs_reauth")
    world.web.hosts[CRM] = world.crm
    await world.set_grant(grant, status="active")
    world.advance(61)
    assert (await ask(world, UPDATE, **DEALS)).status == 200


async def test_a_yes_outlives_an_outage_of_the_provider(world: World) -> None:
    world = confirming(world)
    await world.connect("alice", "crm", *CRM_SCOPES)
    await world.decide((await ask(world, UPDATE, **DEALS)).json["interaction_uri"], approved=True)
    world.web.down.add(REFRESH_GRANTS)
    assert (await ask(world, UPDATE, **DEALS)).refusal[2] == "provider_unavailable"
    world.web.down.clear()
    assert (await ask(world, UPDATE, **DEALS)).status == 200
    assert (await ask(world, UPDATE, **DEALS)).refusal == REQUIRED


# --- a yes is for the account that was connected ---

REPLACED = {"upstream_account": "another-at-crm", "revoke_epoch": 1, "secret_version": 1}


@pytest.mark.parametrize("completion", [{}, {"completion_mode": "deferred"}])
@pytest.mark.parametrize(
    ("then", "after", "counts"),
    [
        ({"upstream_account": "alice-at-crm"}, REPLACED, False),
        ({"upstream_account": "alice-at-crm"}, REPLACED | {"upstream_account": None}, False),
        ({"upstream_account": None}, REPLACED, False),
        # Where the provider does not say whose account it is, every consent may be another's.
        ({"upstream_account": None}, {"upstream_account": None, "revoke_epoch": 1}, False),
        ({"upstream_account": "alice-at-crm"}, REPLACED | {"upstream_account": "alice-at-crm"}, True),
        ({"upstream_account": None}, {"last_used_at": None}, True),
    ],
)
async def test_a_yes_is_void_when_the_account_behind_the_connection_was_replaced(
    world: World, then: dict[str, Any], after: dict[str, Any], counts: bool, completion: dict[str, str]
) -> None:
    world = confirming(world)
    grant = await world.connect("alice", "crm", *CRM_SCOPES)
    await world.set_grant(grant, **then)
    asked = await ask(world, UPDATE, **DEALS, **completion)
    await world.decide(asked.json["interaction_uri"], approved=True)
    await world.set_grant(grant, **after)

    if completion:
        answer = await world.poll(asked.json["deferral_code"])
        assert answer.refusal == EXPIRED if not counts else answer.status == 200
    else:
        answer = await ask(world, UPDATE, **DEALS)
        assert answer.refusal == REQUIRED if not counts else answer.status == 200
    if not counts:
        again = await ask(world, UPDATE, **DEALS)
        assert again.refusal == REQUIRED
        assert again.json["interaction_uri"] != asked.json["interaction_uri"]
        assert world.crm.refreshes == []  # nothing was fetched with the new account's rights
        await world.decide(again.json["interaction_uri"], approved=True)
        assert (await ask(world, UPDATE, **DEALS)).status == 200


async def test_a_yes_is_void_also_when_the_account_is_replaced_while_the_token_is_fetched(world: World) -> None:
    world = confirming(world)
    grant = await world.connect("alice", "crm", *CRM_SCOPES)
    await world.set_grant(grant, upstream_account="alice-at-crm")
    asked = await ask(world, UPDATE, **DEALS)
    await world.decide(asked.json["interaction_uri"], approved=True)
    fetch = world.web.hosts[REFRESH_GRANTS]

    async def replace_then_fetch(sent: Any) -> HttpAnswer:
        await world.set_grant(grant, upstream_account="another-at-crm")
        answer: HttpAnswer = await fetch(sent)
        return answer

    world.web.hosts[REFRESH_GRANTS] = replace_then_fetch
    answer = await ask(world, UPDATE, **DEALS)

    assert answer.refusal == REQUIRED
    assert answer.json["interaction_uri"] != asked.json["interaction_uri"]


async def test_a_yes_is_compared_with_the_account_of_now_however_long_an_operator_lets_a_grants_status_stand(
    tmp_path: Path,
) -> None:
    folder = World(scratch=tmp_path).write_policies(_CONFIRM_WRITES)
    broker = folder / "broker.yaml"
    broker.write_text(broker.read_text("utf-8") + "\ngrant_status_cache_s: 60\n", "utf-8")
    world = World(folder, scratch=tmp_path)
    grant = await world.connect("alice", "crm", *CRM_SCOPES)
    await world.set_grant(grant, upstream_account="alice-at-crm")
    asked = await ask(world, UPDATE, **DEALS)
    await world.decide(asked.json["interaction_uri"], approved=True)
    await world.set_grant(grant, **REPLACED)

    assert (await ask(world, UPDATE, **DEALS)).refusal == REQUIRED


# --- deferred ---


@pytest.mark.requirement("DTR-1")
async def test_a_client_that_opts_in_gets_a_code_to_poll_with(world: World) -> None:
    answer = await defer(world)
    code = answer.json["deferral_code"]
    assert len(code) >= 43
    assert answer.status == 400
    assert answer.json == {
        "error": "authorization_pending",
        "error_description": "The user has not answered yet.",
        "reason_code": "authorization_pending",
        "deferral_code": code,
        "interval": 2,
        "expires_in": 600,
        "interaction_uri": answer.json["interaction_uri"],
        "txn": answer.txn,
    }


@pytest.mark.requirement("DTR-2")
async def test_polling_waits_until_the_user_says_yes_and_then_gives_the_token_once(world: World) -> None:
    asked = await defer(world)
    code = asked.json["deferral_code"]
    world.advance(2)
    waiting = await world.poll(code)
    assert waiting.refusal == PENDING
    assert waiting.json["expires_in"] == 598
    assert waiting.json["deferral_code"] == code
    await world.decide(asked.json["interaction_uri"], approved=True)
    world.advance(2)
    answer = await world.poll(code)
    assert answer.status == 200
    claims = claims_of(answer.json["access_token"])
    assert claims["authorization_details"] == [DROP | {"parameters": {}, "task_id": "t-81"}]
    assert answer.txn == claims["txn"] == asked.txn
    world.advance(2)
    assert (await world.poll(code)).refusal == UNKNOWN_CODE


async def test_polling_works_after_the_assertion_has_ended(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "deal.write", "offline")
    asked = await defer(world)
    world.advance(500)
    await world.decide(asked.json["interaction_uri"], approved=True)
    world.advance(200)
    assert (await world.poll(asked.json["deferral_code"])).status == 200


async def test_a_deferred_exchange_of_a_grant_still_reaches_it_after_the_assertion_has_ended(world: World) -> None:
    world = World(config=world.write_policies(_CONFIRM_WRITES))
    await world.connect("alice", "crm", "deal.read", "contact.read", "deal.write", "offline")
    update = intent("crm.deal.update", "deal/1", parameters={"stage": "won"})
    asked = await defer(world, update, bounds=task("crm.*", task_id="t-81"))
    world.advance(590)
    await world.decide(asked.json["interaction_uri"], approved=True)
    answer = await world.poll(asked.json["deferral_code"])
    assert answer.json["access_token"] == "crm-access-1"
    assert answer.json["scope"] == "deal.write"


@pytest.mark.requirement("DTR-4")
async def test_the_users_no_ends_polling(world: World) -> None:
    asked = await defer(world)
    await world.decide(asked.json["interaction_uri"], approved=False)
    world.advance(2)
    assert (await world.poll(asked.json["deferral_code"])).refusal == REFUSED


@pytest.mark.requirement("DTR-4")
async def test_a_code_ends_with_its_question(world: World) -> None:
    code = (await defer(world)).json["deferral_code"]
    world.advance(599)
    assert (await world.poll(code)).refusal == PENDING
    world.advance(1)
    assert (await world.poll(code)).refusal == EXPIRED
    world.advance(3600)
    assert (await world.poll(code)).refusal == EXPIRED


async def test_a_yes_that_is_not_fetched_in_time_ends_the_code(world: World) -> None:
    asked = await defer(world)
    await world.decide(asked.json["interaction_uri"], approved=True)
    world.advance(300)
    assert (await world.poll(asked.json["deferral_code"])).refusal == EXPIRED


@pytest.mark.requirement("DTR-3")
async def test_polling_faster_than_the_interval_is_slowed_down(world: World) -> None:
    code = (await defer(world)).json["deferral_code"]
    answers = [await world.poll(code) for _ in range(4)]
    assert [answer.json["error"] for answer in answers] == ["authorization_pending"] * 2 + ["slow_down"] * 2
    assert answers[-1].refusal == (400, "slow_down", "polled_too_fast")
    assert answers[-1].json["interval"] == 4
    assert answers[-1].json["deferral_code"] == code
    world.advance(20)
    assert (await world.poll(code)).refusal == PENDING


async def test_a_client_that_keeps_to_the_interval_is_never_slowed_down(world: World) -> None:
    code = (await defer(world)).json["deferral_code"]
    for _ in range(50):
        world.advance(2)
        assert (await world.poll(code)).refusal == PENDING


@pytest.mark.requirement("DTR-5")
@pytest.mark.requirement("DTR-4")
async def test_a_code_of_another_client_and_one_that_does_not_exist_get_the_same_answer(world: World) -> None:
    code = (await defer(world)).json["deferral_code"]
    foreign = await world.poll(code, agent="reader")
    unknown = await world.poll("unknown", agent="reader")
    other_tenant = await world.poll(code, agent="stranger")
    bodies = []
    for answer in (foreign, unknown, other_tenant):
        assert answer.refusal == UNKNOWN_CODE
        body = answer.json
        body.pop("txn")
        bodies.append(body)
    assert bodies[0] == bodies[1] == bodies[2]
    assert (await world.poll(code)).refusal == PENDING


async def test_a_code_is_required(world: World) -> None:
    codes: tuple[Any, ...] = (ABSENT, "")
    for code in codes:
        assert (await world.poll(code)).refusal == (400, "invalid_request", "parameter_missing")


@pytest.mark.requirement("DTR-6")
async def test_what_a_poll_says_beside_the_code_changes_nothing(world: World) -> None:
    asked = await defer(world)
    await world.decide(asked.json["interaction_uri"], approved=True)
    answer = await world.poll(
        asked.json["deferral_code"],
        resource="http://127.0.0.1:8082",
        scope="deal.write",
        authorization_details=[DROP | {"identifier": "table/other"}],
        subject_token="x",
        requested_token_type="x",
    )
    assert answer.json["authorization_details"][0]["identifier"] == "table/t1"
    assert answer.json["scope"] == "table.drop"


async def test_retry_and_poll_share_one_yes(world: World) -> None:
    asked = await defer(world)
    await world.decide(asked.json["interaction_uri"], approved=True)
    assert (await ask(world)).status == 200
    assert (await world.poll(asked.json["deferral_code"])).refusal == UNKNOWN_CODE


async def test_of_many_parallel_polls_and_retries_one_gets_the_token(world: World) -> None:
    share = intent("warehouse.table.share", "table/t1")
    asked = await defer(world, share)
    await world.decide(asked.json["interaction_uri"], approved=True)
    world.advance(200)
    world.cloud.documents["guards"].delay_s = 0.001
    polls = [world.poll(asked.json["deferral_code"]) for _ in range(50)]
    retries = [ask(world, share) for _ in range(50)]
    answers = await gather(*polls, *retries)
    assert sum(answer.status == 200 for answer in answers) == 1


async def test_a_policy_that_changed_meanwhile_ends_what_was_only_promised(world: World) -> None:
    asked = await defer(world)
    await world.decide(asked.json["interaction_uri"], approved=True)
    stricter = '@id("nobody") permit (principal, action == CAB::Action::"warehouse.query.run", resource);'
    world.restart("exchange_token", CAB_CONFIG_DIR=str(world.write_policies(stricter)))
    world.advance(2)
    assert (await world.poll(asked.json["deferral_code"])).refusal == (400, DETAILS, "policy_denied")
    world.restart("exchange_token", CAB_CONFIG_DIR=str(world.write_policies(_CONFIRM_WRITES)))
    world.advance(2)
    assert (await world.poll(asked.json["deferral_code"])).refusal == EXPIRED


async def test_a_connection_that_is_gone_meanwhile_ends_the_code(world: World) -> None:
    asked = await defer(world)
    await world.decide(asked.json["interaction_uri"], approved=True)
    without = world.write_policies(None, connections=lambda text: text.replace("- id: warehouse\n", "- id: depot\n"))
    world.restart("exchange_token", CAB_CONFIG_DIR=str(without))
    world.advance(2)
    assert (await world.poll(asked.json["deferral_code"])).refusal == EXPIRED


async def test_what_needs_no_question_is_not_deferred(world: World) -> None:
    assert (await defer(world, intent())).status == 200


async def test_a_deferral_keeps_facts_and_never_a_token(world: World) -> None:
    asked = await defer(world)
    (deferral,) = await world.cloud.documents["guards"].find("deferrals")
    assert asked.json["deferral_code"] not in str(deferral)
    assert not any(secret in str(deferral.fields) for secret in world.secrets_seen)
