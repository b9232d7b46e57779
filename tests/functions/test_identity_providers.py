"""What identity providers send, from the login to the platform's token: unknown groups, and one person under two registrations."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from click.testing import CliRunner
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, claims_of
from tests.support.visits import Visits
from tests.support.web import Sent, json_answer
from tests.support.world import (
    CRM,
    DROP,
    IDP,
    ORIGIN,
    SECRET_OF_READER,
    WAREHOUSE,
    GoogleIdentity,
    World,
    deployment,
    intent,
    task,
    unique,
)

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.domain.decisions import Deny
from cab.ports import HttpAnswer
from cab.use_cases.exchange.request import Asked
from cab_ops.cli.explain.command import explain_command
from cab_ops.explain.event import explain_event
from cab_ops.explain.exchange import Question, Stage, explain

DENIED = (400, "invalid_authorization_details", "policy_denied")
CONTRACTORS = "0c9e6f54-33d2-4a55-8b8c-9a1f3a7b2d22"
POLICY = """
@id("contractors-never")
forbid (principal in CAB::Group::"contractors", action == CAB::Action::"warehouse.query.run", resource);
@id("everybody")
permit (principal, action == CAB::Action::"warehouse.query.run", resource);
"""
LEFT_OUT = {
    "_claim_names": {"groups": "src1"},
    "_claim_sources": {"src1": {"endpoint": "https://graph.windows.net/d/users/u/getMemberObjects"}},
}
NOT_SAID: dict[str, tuple[dict[str, Any], str]] = {
    "_claim_names": ({"groups": ABSENT} | LEFT_OUT, "left_out"),
    "hasgroups": ({"groups": ABSENT, "hasgroups": "true"}, "left_out"),
    "nothing": ({"groups": ABSENT}, "missing"),
    "no list": ({"groups": {"id": CONTRACTORS}}, "unreadable"),
}


def configured(folder: Path, change: Callable[[str], str]) -> Path:
    """The deployment in this folder with the entry of the first IdP changed."""
    path = folder / "identity_providers.yaml"
    path.write_text(change(path.read_text("utf-8")), "utf-8")
    return folder


# --- groups over the provider's limit ---


@pytest.fixture
def contractors(tmp_path: Path) -> World:
    """Where everybody may ask the warehouse but contractors, whom the IdP names by an object id."""
    folder = World(scratch=tmp_path).write_policies(POLICY)
    mapping = "{G-STAFF: staff, G-ADMIN: admin}"
    changed = configured(folder, lambda text: text.replace(mapping, f"{{{CONTRACTORS}: contractors}}", 1))
    return World(changed, scratch=tmp_path)


async def test_a_contractor_over_the_limit_is_refused_as_under_it(contractors: World) -> None:
    world = contractors
    under = await world.assertion(user="carla", groups=[CONTRACTORS])
    assert claims_of(under)["groups"] == ["contractors"]
    assert (await world.exchange(subject_token=under)).refusal == DENIED

    for claims, why in NOT_SAID.values():
        over = await world.assertion(user="carla", **claims)
        assert claims_of(over)["groups_unknown"] == why
        assert (await world.exchange(subject_token=over)).refusal == DENIED
        event = world.last_event()
        assert event["policy"]["determining_rules"] == ["contractors-never"]
        assert (event["subject"]["groups"], event["subject"]["groups_unknown"]) == ([], why)


async def test_who_is_known_to_be_no_contractor_gets_the_token(contractors: World) -> None:
    assert (await contractors.exchange(subject_token=await contractors.assertion(groups=[]))).status == 200


# --- the same, wherever the assertion goes ---


@pytest.mark.parametrize("case", NOT_SAID)
async def test_unknown_groups_stay_unknown_through_every_delegation(contractors: World, case: str) -> None:
    claims, why = NOT_SAID[case]
    world = contractors
    received = await world.assertion(**claims)
    handed_on = await world.delegate(received, "assistant", "researcher")
    again = await world.delegate(handed_on.json["access_token"], "researcher", "scribe")
    passed_on = claims_of(again.json["access_token"])
    assert (passed_on["groups_unknown"], "groups" in passed_on) == (why, False)
    subject = world.last_event()["subject"]
    assert (subject["groups"], subject["groups_unknown"]) == ([], why)
    last = again.json["access_token"]
    refused = await world.exchange(agent="scribe", subject_token=last)
    assert refused.refusal == DENIED
    assert world.last_event()["policy"]["determining_rules"] == ["contractors-never"]


@pytest.mark.parametrize("case", NOT_SAID)
async def test_an_id_jag_that_does_not_say_groups_is_held_to_every_forbid_by_group(case: str, tmp_path: Path) -> None:
    claims, why = NOT_SAID[case]
    accepting = World(scratch=tmp_path).write_id_jag_deployment()
    mapping = "{G-STAFF: staff, G-ADMIN: admin}"
    configured(accepting, lambda text: text.replace(mapping, f"{{{CONTRACTORS}: contractors}}", 1))
    (accepting / "policies" / "rules.cedar").write_text(POLICY, "utf-8")
    world = World(accepting, scratch=tmp_path)

    known = await world.redeem(world.id_jag(groups=[]), authorization_details=[intent()])
    assert known.status == 200
    answer = await world.redeem(world.id_jag(**claims), authorization_details=[intent()])
    assert answer.refusal == DENIED
    subject = world.last_event()["subject"]
    assert (subject["groups"], subject["groups_unknown"]) == ([], why)


@pytest.mark.parametrize("case", NOT_SAID)
async def test_the_request_and_its_event_are_explained_with_why_groups_are_not_known(
    contractors: World, case: str
) -> None:
    claims, why = NOT_SAID[case]
    world = contractors
    assertion = await world.assertion(**claims)
    form = await world.exchange_form(subject_token=assertion)
    asked = Asked(resource=form["resource"], details=json.dumps(form["authorization_details"]))
    configured = deployment(world.folder)
    engine = CedarPolicyEngine(configured)

    before = explain(Question("assistant", claims_of(assertion), asked, world.clock.now()), configured, engine)
    assert (await world.post("/oauth2/token", form)).refusal == DENIED
    after = explain_event(world.events()[-1], configured, engine)

    assert after.agrees is True
    for explanation in (before, after.explanation):
        assert explanation.judgement is not None
        assert isinstance(explanation.judgement.decision, Deny)
        assert explanation.judgement.decision.rules == ("contractors-never",)
        verified = next(step for step in explanation.steps if step.check is Stage.ASSERTION)
        assert verified.inputs["groups_unknown"] == why
        assert not verified.inputs.get("groups")


@pytest.mark.parametrize("why", ["left_out", "missing", "unreadable"])
def test_cab_explain_takes_a_request_of_somebody_whose_groups_are_not_known(contractors: World, why: str) -> None:
    def explained(assertion: dict[str, Any]) -> Any:
        request = {
            "agent": "assistant",
            "assertion": {"subject": "carla", **assertion},
            "authorization_details": [intent()],
            "resource": WAREHOUSE,
        }
        runner = CliRunner(env=contractors.environment)
        result = runner.invoke(
            explain_command, ["-", "--config", str(contractors.folder), "--json"], input=json.dumps(request)
        )
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    unknown = explained({"groups_unknown": why})
    assert (unknown["decision"], [rule["id"] for rule in unknown["rules"]]) == ("deny", ["contractors-never"])
    assert f'"groups_unknown": "{why}"' in json.dumps(unknown["checks"])
    assert explained({"groups": []})["decision"] == "permit"


# --- one person, two registrations ---

PERSON = "22222222-2222-4333-8444-555555555555"
AT_THE_FRONT_END: dict[str, Any] = {"sub": "LuEHrXHRNLhJayCSbSJhDaXAlENyuWzvLjeDitdfxee", "oid": PERSON}
AT_THE_PAGES = {"sub": "MvVdJlPlfQfSyiuTjnBOPgtaYhNrKBDaDOcqnOnsyFp", "oid": PERSON}
READ = intent("crm.deal.read", "deal/1")


class Browser:
    """Somebody's browser at the pages, the IdP and the CRM. The CRM consents at once, the IdP logs in as `claims` say."""

    def __init__(self, world: World, claims: dict[str, Any]) -> None:
        self._world = world
        self._claims = claims
        self._visits = Visits(world)
        self._nonces: dict[str, str] = {}
        documents = world.idp
        documents.documents["/.well-known/openid-configuration"] |= {
            "authorization_endpoint": f"{IDP}/authorize",
            "token_endpoint": f"{IDP}/token",
        }

        async def idp(sent: Sent) -> HttpAnswer:
            if sent.path != "/token":
                return await documents(sent)
            code = parse_qs(sent.body.decode())["code"][0]
            now = world.now
            token = world.id_token(aud="cab", nonce=self._nonces.pop(code), auth_time=now, iat=now, **self._claims)
            return json_answer({"access_token": "at", "token_type": "Bearer", "id_token": token})

        world.web.hosts[IDP] = idp
        world.cloud.service_tokens["connect_account"] = GoogleIdentity(world, "connect-account")

    async def open(self, url: str, form: dict[str, str] | None = None) -> Answer:
        """The page that a link or a form leads to in the end."""
        for _ in range(10):
            parts = urlsplit(url)
            origin = f"{parts.scheme}://{parts.netloc}" if parts.netloc else ORIGIN
            if origin != ORIGIN:
                url, form = self._elsewhere(dict(parse_qsl(parts.query))), None
                continue
            answer = await self._visits.send(parts.path, parts.query, form)
            choice = re.search(r'href="(/login\?idp=0&amp;[^"]+)"', answer.body.decode())  # the first IdP is Acme's
            location = html.unescape(choice[1]) if choice else answer.header("location")
            if location is None:
                return answer
            url, form = location, None
        raise AssertionError("the pages lead round in circles")

    def _elsewhere(self, query: dict[str, str]) -> str:
        code = unique("code")
        self._nonces[code] = query.get("nonce", "")
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"


async def two_registrations(tmp_path: Path, subject_claim: str) -> World:
    folder = World(scratch=tmp_path).write_policies(None)
    entry = f"tenant: acme\n    subject_claim: {subject_claim}\n"
    world = World(configured(folder, lambda text: text.replace("tenant: acme\n", entry, 1)), scratch=tmp_path)
    await world.cloud.vault.create("cab-idp-acme")
    await world.cloud.vault.add("cab-idp-acme", SECRET_OF_READER.encode())
    return world


async def ask(world: World, declared: dict[str, Any], **changes: Any) -> Answer:
    login = world.id_token(**AT_THE_FRONT_END)
    bounds = task("crm.*", "warehouse.*", task_id="t-1")
    minted = await world.mint(subject_token=login, authorization_details=[bounds])
    assert minted.status == 200, minted.body
    return await world.exchange(declared, subject_token=minted.json["access_token"], **changes)


async def connect(browser: Browser, interaction_uri: str) -> Answer:
    page = await browser.open(interaction_uri)
    assert page.status == 200, page.body
    csrf = re.search(r'name="csrf" value="([A-Za-z0-9_-]{43})"', page.body.decode())
    assert csrf is not None
    return await browser.open("/connect", {"csrf": csrf[1], "connection": "crm", "decision": "connect"})


async def test_a_person_of_two_registrations_connects_on_the_pages_and_is_served_at_the_front_end(
    tmp_path: Path,
) -> None:
    world = await two_registrations(tmp_path, "oid")
    browser = Browser(world, AT_THE_PAGES)

    missing = await ask(world, READ)
    assert missing.refusal == (400, "interaction_required", "grant_missing")

    connected = await connect(browser, missing.json["interaction_uri"])
    assert (connected.status, "connected" in connected.body.decode().lower()) == (200, True)

    served = await ask(world, READ)
    assert (served.status, served.json["access_token"][:10]) == (200, "crm-access")
    assert urlsplit(READ["locations"][0]).netloc == urlsplit(CRM).netloc

    risky = await ask(world, DROP)
    assert risky.refusal == (400, "interaction_required", "confirmation_required")
    approval = await browser.open(risky.json["interaction_uri"])
    assert (approval.status, "Drops a table for good." in approval.body.decode()) == (200, True)


async def test_by_sub_the_same_person_stays_a_stranger_to_the_front_end(tmp_path: Path) -> None:
    """What `cab config validate` warns of. It holds that the test above turns on the claim."""
    world = await two_registrations(tmp_path, "sub")
    browser = Browser(world, AT_THE_PAGES)
    missing = await ask(world, READ)
    assert (await connect(browser, missing.json["interaction_uri"])).status == 200
    assert (await ask(world, READ)).refusal == (400, "interaction_required", "grant_missing")
    risky = await ask(world, DROP)
    assert (await browser.open(risky.json["interaction_uri"])).status == 404


@pytest.mark.parametrize("permitted", [True, False])
async def test_the_connected_page_promises_no_more_than_policy_could_ever_permit(
    tmp_path: Path, *, permitted: bool
) -> None:
    """Through the function as it is deployed: what nobody is ever permitted stood on its pages."""
    world = await two_registrations(tmp_path, "oid")
    rules = world.folder / "policies" / "rules.cedar"
    if not permitted:
        rules.write_text(rules.read_text("utf-8").replace('    CAB::Action::"crm.deal.update",\n', ""), "utf-8")
    browser = Browser(world, AT_THE_PAGES)
    missing = await ask(world, READ)
    asked = (await browser.open(missing.json["interaction_uri"])).body.decode()
    connected = (await connect(browser, missing.json["interaction_uri"])).body.decode()
    for page in (asked, connected):
        assert "Read a deal" in page
        assert ("Change a deal" in page) is permitted


# --- what the person reads ---


@pytest.mark.parametrize("case", NOT_SAID)
async def test_the_person_reads_on_their_page_that_groups_are_not_known_and_why(tmp_path: Path, case: str) -> None:
    claims, why = NOT_SAID[case]
    words = {"left_out": "too many", "missing": "did not send", "unreadable": "no list of groups"}[why]
    world = await two_registrations(tmp_path, "sub")
    page = (await Browser(world, {"sub": "alice"} | claims).open("/me")).body.decode()
    assert "Your groups are not known" in page
    assert words in page


async def test_a_person_whose_groups_are_known_reads_nothing_of_it(tmp_path: Path) -> None:
    world = await two_registrations(tmp_path, "sub")
    page = (await Browser(world, {"sub": "alice"}).open("/me")).body.decode()
    assert "groups are not known" not in page
