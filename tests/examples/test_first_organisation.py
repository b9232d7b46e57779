"""docs/first-organisation.md: its blocks are a folder that is valid, mints and exchanges as the page says, and runs on the local stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tests.support.world
from tests.e2e.caller import Caller
from tests.running_stack import running_stack
from tests.support.jose import key_set, rsa_key
from tests.support.web import Documents
from tests.support.world import IDP, WIKI, World, client_key, intent, task

from cab.adapters.configuration.loader import inspect_folder
from cab_dev.front_end import FrontEndSession

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-organisation.md"
BLOCK = re.compile(r"^```(?:yaml|cedar)\n(?:#|//) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOPS, PARTNERS = "http://127.0.0.1:8111", "http://127.0.0.1:8112"
KEYS = {SHOPS: rsa_key("shops-key"), PARTNERS: rsa_key("partners-key")}
ENVIRONMENT = {
    "CAB_ORIGIN": "http://127.0.0.1:8080",
    "STAFF_IDP_ORIGIN": IDP,
    "SHOPS_IDP_ORIGIN": SHOPS,
    "PARTNERS_IDP_ORIGIN": PARTNERS,
    "ACME_TRACKER_ORIGIN": WIKI,
}
CONNECT = "http://127.0.0.1:8080/connect?connection=helpdesk"
LIST = intent("helpdesk.task.list", "task/*", locations=[WIKI])
CREATE = intent("helpdesk.task.create", "task/*", locations=[WIKI], parameters={"title": "Call back"})


def write_folder(root: Path) -> Path:
    for name, text in BLOCK.findall(PAGE.read_text("utf-8")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setitem(tests.support.world.ENVIRONMENT, name, value)
    made = World(write_folder(tmp_path / "first"), scratch=tmp_path)
    for origin in (SHOPS, PARTNERS):
        discovery = {"issuer": origin, "jwks_uri": f"{origin}/jwks"}
        made.web.hosts[origin] = Documents(
            {"/.well-known/openid-configuration": discovery, "/jwks": key_set(KEYS[origin])}
        )
    for name in ("office-web", "shops-web", "partners-web", "helper", "partners-helper"):
        for host in (made.idp, made.web.hosts[SHOPS], made.web.hosts[PARTNERS]):
            host.documents[f"/clients/{name}/jwks.json"] = key_set(client_key(name))
    return made


async def ask(world: World, front_end: str, user: str, group: str, declared: dict[str, Any], **changes: Any) -> Any:
    """Mint for a user of the front end's own identity provider, and exchange."""
    issuer = {"office-web": IDP, "shops-web": SHOPS, "partners-web": PARTNERS}[front_end]
    agent = "partners-helper" if front_end == "partners-web" else "helper"
    key: dict[str, Any] = {} if issuer == IDP else {"key": KEYS[issuer]}
    login = world.id_token(user, iss=issuer, aud=front_end, groups=[group], **key)
    minted = await world.mint(client_id=front_end, agent=agent, subject_token=login, **changes)
    assert minted.status == 200, minted.body
    return await world.exchange(declared, agent=agent, subject_token=minted.json["access_token"], resource=WIKI)


def test_the_folder_of_the_page_is_valid_without_a_warning(tmp_path: Path) -> None:
    inspection = inspect_folder(write_folder(tmp_path), ENVIRONMENT)
    assert inspection.problems == ()
    assert inspection.valid


async def test_staff_of_both_identity_providers_are_in_support(world: World) -> None:
    for front_end, group in (("office-web", "sales"), ("shops-web", "ops")):
        answer = await ask(world, front_end, "carol", group, LIST)
        assert answer.refusal == (400, "interaction_required", "grant_missing")
        assert answer.json["interaction_uri"] == CONNECT
    await world.connect("alice", "helpdesk", "task.read", "task.write", "offline_access", tenant="northwind")
    answer = await ask(world, "office-web", "alice", "sales", LIST)
    assert (answer.status, answer.json["scope"]) == (200, "task.read")


async def test_a_group_of_the_other_identity_provider_is_none_here(world: World) -> None:
    assert (await ask(world, "office-web", "alice", "ops", LIST)).json["reason_code"] == "policy_denied"


async def test_creating_asks_the_user_who_connected(world: World) -> None:
    await world.connect("alice", "helpdesk", "task.read", "task.write", "offline_access", tenant="northwind")
    bounds = {"authorization_details": [task("helpdesk.*", task_id="t-1")]}
    asked = await ask(world, "office-web", "alice", "sales", CREATE, **bounds)
    assert asked.json["reason_code"] == "confirmation_required"
    await world.decide(asked.json["interaction_uri"], approved=True)
    assert (await ask(world, "office-web", "alice", "sales", CREATE, **bounds)).status == 200


async def test_partners_only_list_and_only_as_themselves(world: World) -> None:
    await world.connect("bob", "helpdesk", "task.read", "task.write", "offline_access", tenant="northwind")
    assert (await ask(world, "partners-web", "bob", "sales", LIST)).json["reason_code"] == "grant_missing"
    bounds = {"authorization_details": [task("helpdesk.*")]}
    refused = await ask(world, "partners-web", "bob", "sales", CREATE, **bounds)
    assert refused.json["reason_code"] == "action_not_allowed_for_agent"


@pytest.mark.stack
def test_the_folder_runs_on_the_local_stack_as_the_page_says(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "first")
    with running_stack(tmp_path / "state", "--config", str(folder), "--no-bigquery") as stack:
        answers = {}
        for front_end, user, agent in (
            ("office-web", "alice", "helper"),
            ("shops-web", "carol", "helper"),
            ("partners-web", "bob", "partners-helper"),
        ):
            assertion = FrontEndSession(stack.file, front_end).assertion(user, agent=agent)
            answers[front_end] = Caller(stack, agent).exchange(assertion, "helpdesk.task.list", "task/*")
        assert answers["office-web"].status == 200, answers["office-web"].body
        assert answers["shops-web"].body["reason_code"] == "grant_missing"
        assert answers["partners-web"].body["reason_code"] == "grant_missing"
