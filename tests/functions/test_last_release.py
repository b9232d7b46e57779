"""What the last release has stored and published, as this code finds it when functions are upgraded one by one.

Its documents, secrets and events are recorded (tests/data/last_release). The other direction, its code over what this code
writes, needs its code: `make drills DRILLS="--only upgrade"`.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.world import DROP, STS, World, intent, unique

from cab.domain import audit
from cab.encoding.records import as_json
from cab.ports import Create
from cab.use_cases.audit.ingest import read_event

LAST_RELEASE = Path(__file__).parents[1] / "data" / "last_release"
RECORDED: dict[str, Any] = json.loads((LAST_RELEASE / "v0.1.0.json").read_text("utf-8"))
IN_CRM = intent("crm.deal.list", "deal/*")


def as_stored(value: Any) -> Any:
    if isinstance(value, list):
        return [as_stored(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$time" in value:
        return datetime.fromisoformat(value["$time"])
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    return {name: as_stored(item) for name, item in value.items()}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """This code, in the place where the last release was."""
    upgraded = World(scratch=tmp_path)
    upgraded.clock.set(datetime.fromtimestamp(RECORDED["now"], UTC))
    for database, documents in RECORDED["documents"].items():
        for path, fields in documents.items():
            await upgraded.cloud.documents[database].write(Create(path, as_stored(fields)))
    for name, versions in RECORDED["secrets"].items():
        await upgraded.cloud.vault.create(name)
        for payload in as_stored(versions):
            await upgraded.cloud.vault.add(name, payload)
    for _ in range(100):  # the jti of its client assertions, which are counted from one in each run, are spent
        unique("jti")
    upgraded._is_set_up = True  # its keys and secrets are those of the release before
    return upgraded


async def test_a_grant_goes_on_from_the_token_set_that_was_stored(world: World) -> None:
    assert RECORDED["refresh_tokens_sent"] == ["crm-refresh-0"]
    answer = await world.exchange(IN_CRM, subject_token=RECORDED["assertion"])
    assert answer.status == 200, answer.json
    world.advance(3600)
    again = await world.exchange(IN_CRM, subject_token=await world.assertion(user="alice"))
    assert again.status == 200, again.json
    assert [form["refresh_token"] for form in world.crm.refreshes] == ["crm-refresh-1"]


async def test_an_assertion_of_before_is_verified_and_its_key_signs_on(world: World) -> None:
    kids = {key["kid"] for key in (await world.request("GET", "/edge/jwks.json")).json["keys"]}
    header = json.loads(base64.urlsafe_b64decode(RECORDED["assertion"].split(".")[0] + "=="))
    assert kids == {header["kid"]}
    assert (await world.exchange(subject_token=RECORDED["assertion"])).status == 200


async def test_a_yes_of_before_is_asked_for_again_since_the_settings_are_others(world: World) -> None:
    """This release wants settings that the last one did not know (`trust_zones`), and a yes holds for what was asked under its policies."""
    assert (await world.poll(RECORDED["deferral_code"])).reason == "deferral_expired"
    assert (await world.exchange(DROP, subject_token=RECORDED["assertion"])).reason == "confirmation_required"


async def test_what_was_spent_before_stays_spent(world: World) -> None:
    assert (await world.poll(RECORDED["spent_deferral_code"])).status == 400
    form = await world.exchange_form(subject_token=RECORDED["assertion"])
    form["client_assertion"] = world.client_assertion("assistant", STS, jti=RECORDED["spent_jti"])
    assert (await world.post("/oauth2/token", form)).reason == "client_assertion_replayed"


@pytest.mark.parametrize("function", RECORDED["events"])
def test_its_events_are_read_and_written_as_they_were(function: str) -> None:
    for event in RECORDED["events"][function]:
        assert read_event(json.dumps(event).encode()) == event
        assert as_json(audit.read(event)) == event
