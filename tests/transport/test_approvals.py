"""Deciding on a pending action: by its own user, knowingly, once, and never by accident or by the agent (design X7 to X10)."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests
from tests.examples.acme_in_process import IDP
from tests.transport.acme_pages import AcmePages, Browser

from cab.domain.accounts import account_behind
from cab.domain.audit import EventType
from cab.domain.calls.rendering import render
from cab.domain.configured.deployment import Deployment
from cab.domain.intents import Intent
from cab.stores.approvals import ApprovalDecision, ApprovalRequest
from cab_dev.fakes.documents import Outage


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


async def _decision(acme: AcmePages, approval_id: str) -> ApprovalDecision | None:
    return await acme.decisions.read(approval_id)


def decision(acme: AcmePages, approval_id: str = "A" * 22) -> bool | None:
    """True approved, False refused, None undecided."""
    found = acme.run(_decision(acme, approval_id))
    return None if found is None else found.approved


def decide(browser: Browser, word: str, approval_id: str = "A" * 22, **arguments: Any) -> requests.Response:
    path = f"/approvals/{approval_id}"
    return browser.post(path, {"csrf": browser.csrf(path), "decision": word}, **arguments)


# --- what the broker would send itself ---


def digest_of(acme: AcmePages, action: str, identifier: str, **parameters: Any) -> str:
    connection = acme.deployment.connection_by_id["crm"]
    entry = connection.action_by_id[action]
    filled = entry.with_defaults(parameters)
    intent = Intent(entry, "crm", connection.resource, identifier, filled, task_id="t-81", reason=None)
    return render(entry, connection, intent).digest


def test_the_page_shows_the_very_request_that_would_be_sent(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    changed = {"stage": "won", "next_step": "Celebrate </code> quietly"}
    digest = digest_of(acme, "crm.opportunity.update", "opportunity/0061", **changed)
    request = acme.ask_approval(action="crm.opportunity.update", parameters=changed, request_digest=digest)

    page = browser.get(f"/approvals/{request.id}").text

    assert "PATCH" in page
    assert "/opportunities/0061" in page
    assert "Celebrate &lt;/code&gt; quietly" in page
    assert digest in page
    decide(browser, "approve")
    [event] = acme.events(EventType.CONFIRMATION_DECIDED)
    assert event.call is not None
    assert event.call.request_digest == digest


def test_a_request_that_would_be_another_today_is_not_shown_as_if_it_were_sent(acme: AcmePages) -> None:
    request = acme.ask_approval(request_digest="sha-256:" + "A" * 43)

    page = acme.logged_in("alice").get(f"/approvals/{request.id}").text

    assert "Agreeing has no effect" in page
    assert "DELETE" not in page


def test_an_action_that_the_agent_does_itself_shows_no_request(acme: AcmePages) -> None:
    assert "What would be sent" not in acme.logged_in("alice").get(f"/approvals/{acme.ask_approval().id}").text


# --- the account behind the connection ---


def test_the_page_names_the_account_that_would_act(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.change_grant("alice", upstream_account_name="alice@crm.example")

    page = browser.get(f"/approvals/{acme.ask_approval().id}").text

    assert "With your account" in page
    assert "alice@crm.example" in page


def test_a_decision_on_a_page_that_names_another_account_decides_nothing(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    path = f"/approvals/{acme.ask_approval().id}"
    page = browser.get(path).text
    form = {"csrf": browser.csrf(path), "decision": "approve", "account": account_of(page)}
    acme.change_grant("alice", upstream_account="crm-40019")

    answer = browser.post(path, form)

    assert "Nothing was decided" in answer.text
    assert decision(acme) is None
    assert browser.post(path, form | {"account": account_of(answer.text)}).status_code == 200
    assert decision(acme) is True


def test_an_approval_whose_account_was_replaced_says_that_it_counts_no_more(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    request = acme.ask_approval()
    assert "You approved this" in decide(browser, "approve").text
    acme.change_grant("alice", upstream_account="crm-40019")

    assert "This approval counts no more" in browser.get(f"/approvals/{request.id}").text


def test_a_decision_is_bound_to_the_account_of_its_moment(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.ask_approval()
    decide(browser, "approve")

    found = acme.run(_decision(acme, "A" * 22))

    grant = acme.grant("alice")
    assert found is not None
    assert grant is not None
    assert found.account == account_behind(acme.deployment.connection_by_id["crm"], grant)
    assert grant.upstream_account is not None
    assert grant.upstream_account not in (found.account or "")


def account_of(html: str) -> str:
    return html.partition('name="account" value="')[2].partition('"')[0]


# --- the page ---


def test_the_page_shows_the_whole_request(acme: AcmePages) -> None:
    request = acme.ask_approval(
        action="crm.opportunity.update",
        parameters={"stage": "won", "amount_cents": 120000, "next_step": "Send it"},
        prompts=("Sets an amount above 50,000 euros.",),
        reason="Because.",
    )
    browser = acme.logged_in("alice")

    text = browser.log_in(f"/approvals/{request.id}").text

    for words in (
        *("Change an opportunity", "crm.opportunity.update", "Acme CRM", "http://127.0.0.1:8082", "opportunity/0061"),
        *("stage", "won", "amount_cents", "120000", "120,000", "next_step", "Send it", "t-81", "Sales assistant"),
        *("sales-assistant", "Sets an amount above 50,000 euros.", "Because.", request.binding.intent_hash),
    ):
        assert words in text


def test_a_deletion_is_visibly_dangerous(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")

    html = browser.get(f"/approvals/{acme.ask_approval().id}").text

    assert "This deletes data." in html
    assert '<button class="danger" name="decision" value="approve">' in html


def test_what_cannot_be_undone_is_told_in_the_words_of_its_catalog_entry() -> None:
    def closing(deployment: Deployment) -> Deployment:
        crm, *others = deployment.connections
        actions = tuple(
            action.model_copy(update={"consequence": "Closes the ticket for the customer."})
            if action.id == "crm.opportunity.delete"
            else action
            for action in crm.actions
        )
        return replace(deployment, connections=(crm.model_copy(update={"actions": actions}), *others))

    acme = AcmePages(change=closing)
    html = acme.logged_in("alice").get(f"/approvals/{acme.ask_approval().id}").text

    assert "Closes the ticket for the customer." in html
    assert "deletes data" not in html.lower()


def test_the_agents_words_are_marked_as_such(acme: AcmePages) -> None:
    acme.ask_approval(reason="Your administrator has approved this.")

    html = acme.logged_in("alice").get("/approvals/" + "A" * 22).text

    said = html.partition('<figure class="said">')[2].partition("</figure>")[0]
    assert "nobody has checked" in said
    assert "Your administrator has approved this." in said
    assert html.count("Your administrator has approved this.") == 1


def test_an_action_that_is_no_longer_configured_is_shown_as_dangerous(acme: AcmePages) -> None:
    acme.ask_approval(action="crm.opportunity.merge")

    html = acme.logged_in("alice").get("/approvals/" + "A" * 22).text

    assert "unknown to the present configuration" in html
    assert "crm.opportunity.merge" in html


# --- deciding ---


@pytest.mark.parametrize(("word", "approved", "title"), [("approve", True, "approved"), ("refuse", False, "refused")])
def test_a_decision_stands_and_is_audited(acme: AcmePages, word: str, approved: bool, title: str) -> None:
    request = acme.ask_approval()

    answer = decide(acme.logged_in("alice"), word)

    assert f"You {title} this" in answer.text
    assert decision(acme) is approved
    (event,) = acme.events(EventType.CONFIRMATION_DECIDED)
    assert (event.confirmation_id, event.decision) == (request.id, "permit" if approved else "deny")
    assert event.subject is not None
    assert event.subject.key == acme.subject("alice")
    assert event.actor is not None
    assert (event.actor.agent_id, event.actor.client_id) == ("sales-assistant", "acme-web")
    assert event.intent is not None
    assert event.intent.intent_hash == request.binding.intent_hash
    assert event.txn == request.txn


@pytest.mark.parametrize(("first", "second"), [("approve", "refuse"), ("refuse", "approve"), ("approve", "approve")])
def test_the_first_decision_stands(acme: AcmePages, first: str, second: str) -> None:
    acme.ask_approval()
    browser = acme.logged_in("alice")
    token = browser.csrf()
    decide(browser, first)

    answer = browser.post("/approvals/" + "A" * 22, {"csrf": token, "decision": second})

    assert f"You {'approved' if first == 'approve' else 'refused'} this" in answer.text
    assert decision(acme) is (first == "approve")
    assert len(acme.events(EventType.CONFIRMATION_DECIDED)) == 1


async def spend(acme: AcmePages, request: ApprovalRequest) -> bool:
    question = await acme.requests.find(request.id)
    return question is not None and await acme.requests.spend(question)


def test_who_comes_back_when_the_answer_is_spent_sees_what_they_answered(acme: AcmePages) -> None:
    request = acme.ask_approval()
    browser = acme.logged_in("alice")
    token = browser.csrf()
    decide(browser, "approve")
    assert acme.run(spend(acme, request))

    for answer in (
        browser.get(f"/approvals/{request.id}"),
        browser.post(f"/approvals/{request.id}", {"csrf": token, "decision": "refuse"}),
    ):
        assert "You approved this" in answer.text
        assert request.detail["identifier"] in answer.text
    assert len(acme.events(EventType.CONFIRMATION_DECIDED)) == 1
    assert acme.logged_in("bob").get(f"/approvals/{request.id}").status_code == 404


def test_of_many_decisions_at_once_exactly_one_stands_and_all_pages_say_which(acme: AcmePages) -> None:
    acme.ask_approval()
    browsers = [acme.logged_in("alice") for _ in range(8)]
    tokens = [browser.csrf() for browser in browsers]

    def answer(number: int) -> str:
        word = "approve" if number % 2 else "refuse"
        return browsers[number].post("/approvals/" + "A" * 22, {"csrf": tokens[number], "decision": word}).text

    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(answer, range(8)))

    stands = decision(acme)
    assert stands is not None
    assert all(("You approved this" if stands else "You refused this") in page for page in pages)


def test_no_decision_without_its_audit_record(acme: AcmePages) -> None:
    acme.ask_approval()
    browser = acme.logged_in("alice")
    token = browser.csrf()
    acme.audit_log.is_down = True

    answer = browser.post("/approvals/" + "A" * 22, {"csrf": token, "decision": "approve"})

    assert answer.status_code == 503
    assert "Nothing was done" in answer.text
    assert decision(acme) is None


def test_a_repeated_decision_is_the_same_row_in_audit(acme: AcmePages) -> None:
    acme.ask_approval()
    browser = acme.logged_in("alice")
    token = browser.csrf()
    acme.approvals.outage = Outage(frozenset({"write"}))
    assert browser.post("/approvals/" + "A" * 22, {"csrf": token, "decision": "approve"}).status_code == 503
    assert decision(acme) is None
    acme.approvals.outage = None

    browser.post("/approvals/" + "A" * 22, {"csrf": token, "decision": "approve"})

    assert decision(acme) is True
    events = acme.events(EventType.CONFIRMATION_DECIDED)
    assert len(events) == 2
    assert len({event.event_id for event in events}) == 1


def test_a_decision_after_the_waiting_time_comes_too_late(acme: AcmePages) -> None:
    acme.ask_approval()
    acme.wait(seconds=600)
    browser = acme.logged_in("alice")

    answer = browser.post("/approvals/" + "A" * 22, {"csrf": browser.csrf(), "decision": "approve"})

    assert "Too late to decide" in answer.text
    assert decision(acme) is None


# --- what must not decide ---


@pytest.mark.parametrize(
    "path",
    [
        "/approvals/ID?decision=approve",
        "/approvals/ID?decision=approve&csrf=TOKEN",
        "/approvals/ID?_method=POST&decision=approve&csrf=TOKEN",
    ],
)
def test_looking_never_decides(acme: AcmePages, path: str) -> None:
    request = acme.ask_approval()
    browser = acme.logged_in("alice")

    url = path.replace("ID", request.id).replace("TOKEN", browser.csrf())
    assert browser.get(url, headers={"X-HTTP-Method-Override": "POST"}).status_code == 200
    assert decision(acme) is None


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(acme: AcmePages, method: str) -> None:
    request = acme.ask_approval()
    browser = acme.logged_in("alice")

    answer = browser.http.request(
        method, f"http://127.0.0.1:8080/approvals/{request.id}", data={"decision": "approve"}, stream=True
    )

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert decision(acme) is None


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"decision": "approve"}, 403),
        ({"decision": "approve", "csrf": ""}, 403),
        ({"decision": "approve", "csrf": "A" * 43}, 403),
        ({"csrf": "OWN"}, 400),
        ({"csrf": "OWN", "decision": "yes"}, 400),
        ({"csrf": "OWN", "decision": "APPROVE"}, 400),
        ({"csrf": "BOBS", "decision": "approve"}, 403),
    ],
)
def test_a_form_that_is_not_the_pages_own_decides_nothing(acme: AcmePages, form: dict[str, str], status: int) -> None:
    acme.ask_approval()
    browser = acme.logged_in("alice")
    tokens = {"OWN": browser.csrf(), "BOBS": acme.logged_in("bob").csrf()}
    sent = {name: tokens.get(value, value) for name, value in form.items()}

    assert browser.post("/approvals/" + "A" * 22, sent).status_code == status
    assert decision(acme) is None


def test_two_decisions_in_one_form_decide_nothing(acme: AcmePages) -> None:
    acme.ask_approval()
    browser = acme.logged_in("alice")
    body = f"csrf={browser.csrf()}&decision=approve&decision=refuse"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    answer = browser.http.post("http://127.0.0.1:8080/approvals/" + "A" * 22, data=body, headers=headers)

    assert answer.status_code == 400
    assert decision(acme) is None


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_a_form_from_another_site_decides_nothing(acme: AcmePages, headers: dict[str, str]) -> None:
    acme.ask_approval()

    assert decide(acme.logged_in("alice"), "approve", headers=headers).status_code == 403
    assert decision(acme) is None


@pytest.mark.parametrize("origin", ["null", "http://127.0.0.1:8080"])
def test_the_pages_own_form_decides_whatever_origin_the_browser_admits(acme: AcmePages, origin: str) -> None:
    acme.ask_approval()

    decide(acme.logged_in("alice"), "approve", headers={"Origin": origin})

    assert decision(acme) is True


def test_without_a_session_nothing_is_shown_or_decided(acme: AcmePages) -> None:
    request = acme.ask_approval()
    agent = Browser(acme.browser(), "agent")

    assert agent.get(f"/approvals/{request.id}").headers["location"].startswith(IDP)
    assert agent.post(f"/approvals/{request.id}", {"decision": "approve", "csrf": "A" * 43}).status_code == 400
    assert decision(acme) is None


def test_a_login_that_grew_old_on_the_page_decides_nothing(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    acme.wait(seconds=200)
    acme.ask_approval()
    token = browser.csrf("/approvals/" + "A" * 22)
    acme.wait(seconds=101)

    answer = browser.post("/approvals/" + "A" * 22, {"csrf": token, "decision": "approve"})

    assert answer.status_code == 400
    assert "Please log in again" in answer.text
    assert decision(acme) is None
    assert acme.refusals() == ["step_up_required"]


def test_a_weaker_login_than_asked_decides_nothing(acme: AcmePages) -> None:
    acme.ask_approval(acr_values="urn:acme:acr:mfa")
    browser = acme.logged_in("alice")

    answer = browser.post("/approvals/" + "A" * 22, {"csrf": browser.csrf(), "decision": "approve"})

    assert answer.status_code == 400
    assert decision(acme) is None


def _without_what_changes(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, re.sub(r"<code>[A-Za-z0-9_-]{22}</code>", "", answer.text)


def test_somebody_elses_request_and_a_missing_one_get_the_same_answer(acme: AcmePages) -> None:
    acme.ask_approval("alice")
    bob = acme.logged_in("bob")

    assert _without_what_changes(bob.get("/approvals/" + "A" * 22)) == _without_what_changes(
        bob.get("/approvals/" + "B" * 22)
    )
    form = {"csrf": bob.csrf(), "decision": "approve"}
    theirs, missing = bob.post("/approvals/" + "A" * 22, form), bob.post("/approvals/" + "B" * 22, form)
    assert theirs.status_code == 404
    assert _without_what_changes(theirs) == _without_what_changes(missing)
    assert decision(acme) is None


@pytest.mark.parametrize("name", ["..", "a b", "é", "A" * 65, "%2e%2e", "A;B", "<b>"])
def test_an_id_of_another_form_is_not_found(acme: AcmePages, name: str) -> None:
    assert acme.logged_in("alice").get(f"/approvals/{name}").status_code == 404


# --- misleading text ---

SPOOFS = {
    "right-to-left override": "opportunity \u202e1600",
    "left-to-right embedding": "a\u202ab",
    "isolate": "a\u2066b\u2069c",
    "arabic letter mark": "a\u061cb",
    "zero width space": "del\u200bete",
    "zero width joiner": "del\u200dete",
    "byte order mark": "\ufeffdelete",
    "soft hyphen": "de\u00adlete",
    "word joiner": "de\u2060lete",
    "null": "a\x00b",
    "escape": "a\x1b[31mb",
    "carriage return": "safe\rdanger",
    "delete": "a\x7fb",
    "next line": "a\u0085b",
    "line separator": "a\u2028b",
    "no-break space": "a\u00a0b",
    "ideographic space": "a\u3000b",
    "hangul filler": "a\u3164b",
    "braille blank": "a\u2800b",
    "tag characters": "ok\U000e0064\U000e0065",
    "variation selector": "a\ufe0fb",
    "private use": "a\ue000b",
    "too many marks": "a\u0301\u0302\u0303\u0304\u0305b",
    "cyrillic a in a latin word": "\u0430cme",
    "markup": "<b onclick=x>ok</b><script>alert(1)</script></td></tr>",
    "attribute": "\" onmouseover=alert(1) x='",
    "form": "</form><form action=//evil.example><button>Approve",
    "entity": "&lt;b&gt;&#x202e;",
    "template": "{{ 7*7 }}{% raw %}",
}
HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00a0\u00ad\u034f\u061c\u115f\u1160\u200b-\u200f\u2028-\u202f\u2060-\u206f"
    "\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\ue000-\uf8ff\U000e0000-\U000e0fff]"
)


@pytest.mark.parametrize("name", SPOOFS)
def test_misleading_text_is_shown_for_what_it_is(acme: AcmePages, name: str) -> None:
    text = SPOOFS[name]
    acme.ask_approval(action="tracker.task.create", connection="tracker", reason=text, parameters={"title": text})

    html = acme.logged_in("alice").get("/approvals/" + "A" * 22).text

    assert HIDDEN.search(html) is None
    assert "<script" not in html
    assert "onclick=x>" not in html
    assert html.count("<form") == html.count("</form>") == 2
    assert "49" not in html.partition('<figure class="said">')[2].partition("</figure>")[0]


def test_a_long_text_is_not_shortened(acme: AcmePages) -> None:
    text = "word " * 99 + "end"
    acme.ask_approval(parameters={"title": text * 4}, reason=text)

    html = acme.logged_in("alice").get("/approvals/" + "A" * 22).text

    assert text * 4 in html
    assert f'<bdi class="raw">{text}</bdi>' in html


def test_text_and_numbers_are_told_apart(acme: AcmePages) -> None:
    acme.ask_approval(parameters={"text": "120000", "number": 120000, "word": "true", "yes": True})

    html = acme.logged_in("alice").get("/approvals/" + "A" * 22).text

    assert '“</span><bdi class="raw">120000</bdi>' in html
    assert '<span class="number">120000</span> <span class="soft">(120,000)</span>' in html
    assert '“</span><bdi class="raw">true</bdi>' in html
    assert '<span class="number">true</span>' in html
