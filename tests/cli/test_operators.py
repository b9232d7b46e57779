"""`cab grants` and `cab keys` over stores in memory: what they say and how they exit."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cab_ops.cli.cloud
import cab_ops.cli.grants
from cab.adapters.google_cloud.service_tokens import GoogleServiceTokens
from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant, grant_id
from cab.ports import Create, Replace, Unavailable
from cab.stores.grants import ARE_SPREAD, Grants
from cab.stores.signing_keys import Issuer, SigningKeys
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.secrets import InMemoryVault
from cab_ops.cli import main
from cab_ops.cli.cloud import Cloud


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    stores: Any = Cloud(InMemoryDocuments(), InMemoryDocuments(), InMemoryVault())  # type: ignore[arg-type]

    @asynccontextmanager
    async def opened(_project: str) -> AsyncIterator[Cloud]:
        yield stores

    monkeypatch.setattr(cab_ops.cli.cloud, "open_cloud", opened)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "demo-cab")
    return stores  # type: ignore[no-any-return]


def cab_command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_listing_grants_by_a_name_that_matches_none_fails(cloud: Cloud, output: tuple[str, ...]) -> None:
    result = cab_command("grants", "list", "--tenant", "acme", "--connection", "cmr", *output)
    assert result.exit_code == 1
    assert "No grant matches tenant acme, connection cmr." in result.output


def test_listing_all_grants_of_a_new_deployment_is_no_failure(cloud: Cloud) -> None:
    result = cab_command("grants", "list")
    assert (result.exit_code, result.output) == (0, "nothing found\n")


def test_a_state_that_does_not_exist_is_refused(cloud: Cloud) -> None:
    result = cab_command("grants", "list", "--status", "needs-reauth")
    assert result.exit_code == 2
    assert "needs_reauth" in result.output


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_revoking_what_matches_no_grant_fails(monkeypatch: pytest.MonkeyPatch, output: tuple[str, ...]) -> None:
    async def nobody(_url: str, _what: str, _document: dict[str, Any]) -> dict[str, Any]:
        return {"revoked": []}

    monkeypatch.setattr(cab_ops.cli.grants, "ask_refresh_grants", nobody)
    result = cab_command("grants", "revoke", "--url", "https://refresh.test", "--tenant", "acne", *output)
    assert result.exit_code == 1
    assert "No grant matches tenant acne." in result.output
    assert "Nothing was revoked." in result.output


def test_a_key_that_is_not_retired_yet_is_told_apart_from_one_that_is_in_use(cloud: Cloud) -> None:
    cab_command("keys", "init")
    nothing = cab_command("keys", "rotate", "retire", "--issuer", "sts")
    assert nothing.exit_code == 1
    assert "no key is retired" in nothing.output
    cab_command("keys", "rotate", "publish", "--issuer", "sts")
    early = cab_command("keys", "rotate", "activate", "--issuer", "sts")
    assert "Too early: a verifier may still hold a key set without the new key. Wait until" in early.output


def test_a_leaked_key_is_removed_by_one_command(cloud: Cloud) -> None:
    cab_command("keys", "init")
    ring = asyncio.run(SigningKeys(cloud.keys).ring(Issuer.STS))
    assert ring is not None
    assert ring.active is not None
    result = cab_command("keys", "remove-leaked", "--issuer", "sts", "--json", ring.active.kid)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["done"] == "removed"
    after = asyncio.run(SigningKeys(cloud.keys).ring(Issuer.STS))
    assert after is not None
    assert after.active is not None
    assert after.active.kid != ring.active.kid
    again = cab_command("keys", "remove-leaked", "--issuer", "sts", ring.active.kid)
    assert again.exit_code == 1
    assert "there is no such key" in again.output


def test_a_leaked_key_that_could_not_be_destroyed_is_told_listed_and_destroyed_by_the_same_command(
    cloud: Cloud,
) -> None:
    vault: Any = cloud.vault
    cab_command("keys", "init")
    cab_command("keys", "rotate", "publish", "--issuer", "sts")
    ring = asyncio.run(SigningKeys(cloud.keys).ring(Issuer.STS))
    assert ring is not None
    kid = ring.keys[0].kid
    vault.is_down = True
    result = cab_command("keys", "remove-leaked", "--issuer", "sts", kid)
    assert (result.exit_code, "Run this again." in result.output) == (1, True), result.output
    assert (
        f"removed    {ring.keys[0].changed_at.isoformat(timespec='seconds')}  {kid}"
        in cab_command("keys", "list").output
    )
    vault.is_down = False
    assert cab_command("keys", "remove-leaked", "--issuer", "sts", kid).exit_code == 0
    assert kid not in cab_command("keys", "list").output


@pytest.mark.parametrize(
    ("name", "value", "status", "says"),
    [
        ("cab-provider-crm", b"hush\n", 0, "cab-provider-crm: version 1 made"),
        (
            "cab-provider-nobody-made",
            b"hush",
            1,
            "there is no secret cab-provider-nobody-made (Terraform makes",
        ),
        ("cab-provider-crm", b"\n", 1, "a secret cannot be empty"),
        ("cab-provider-crm", b"\xff\xfe", 2, "no UTF-8 text"),
        ("cab-provider/crm", b"hush", 2, "cab-provider/crm: A secret id is"),
    ],
)
def test_a_client_secret_is_added_or_it_is_said_why_not(
    cloud: Cloud, name: str, value: bytes, status: int, says: str
) -> None:
    asyncio.run(cloud.vault.create("cab-provider-crm"))
    result = CliRunner().invoke(main, ["keys", "add-secret", name], input=value)
    assert (result.exit_code, says in result.output) == (status, True), result.output
    assert isinstance(result.exception, SystemExit | None)
    if status == 0:
        assert asyncio.run(cloud.vault.access(name, 1)) == b"hush"


def test_a_data_key_that_is_made_anew_is_told_by_its_own_number(cloud: Cloud) -> None:
    cab_command("keys", "init")
    asyncio.run(cloud.vault.destroy("cab-escrow-key", 1))
    assert cab_command("keys", "init").output == "cab-escrow-key: version 2 made\n"


def test_two_operators_who_make_the_first_keys_at_once_make_one_ring(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_late(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(SigningKeys, "save", too_late)
    result = cab_command("keys", "init")
    assert (result.exit_code, result.output) == (1, "Error: another operator changed the keys: look again\n")


def test_what_is_no_id_of_a_grant_is_wrong_use(cloud: Cloud) -> None:
    result = cab_command("grants", "show", "../grants/x")
    assert (result.exit_code, "`cab grants list` shows them" in result.output) == (2, True)


# --- asking refresh_grants ---


@pytest.mark.parametrize(
    "url", ["", "refresh.test", "https://refresh.test/", "https://refresh.test/grants", "ftp://refresh.test"]
)
def test_what_is_no_origin_of_refresh_grants_is_wrong_use(cloud: Cloud, url: str) -> None:
    result = cab_command("grants", "revoke", "--url", url, "--tenant", "acme")
    assert (result.exit_code, "an origin such as https://refresh-grants-" in result.output) == (2, True), result.output


def test_who_has_no_identity_and_what_does_not_answer_are_told_apart(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_: object) -> str:
        raise Unavailable("tokens")

    async def somebody(*_: object) -> str:
        return "token"

    for identity, says in ((nobody, "one of the module's `operators`"), (somebody, "run this again")):
        monkeypatch.setattr(GoogleServiceTokens, "identity_token", identity)
        result = cab_command("grants", "revoke", "--url", "http://127.0.0.1:9", "--tenant", "acme")
        assert (result.exit_code, says in result.output) == (1, True), result.output


# --- moving grants ---


def a_grant(number: int, *, storage: Any = None) -> Grant:
    subject = f"user-{number}"
    return Grant(
        grant_id=grant_id("acme", subject, "crm"),
        tenant="acme",
        subject=subject,
        connection="crm",
        provider="crm",
        provider_class=RotationClass.STRICT,
        storage=storage,
        connected_at=datetime(2026, 11, 21, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("busy_for", "code", "counted"), [(1, 0, "moved 44, there already 1, left 0"), (99, 1, "left 1")]
)
def test_moving_asks_for_every_grant_and_again_for_those_in_use(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, busy_for: int, code: int, counted: str
) -> None:
    grants = [*(a_grant(number) for number in range(44)), a_grant(44, storage="sealed_documents")]
    for grant in grants:
        asyncio.run(Grants(cloud.grants).create(grant))
    busy, asked = grants[7].grant_id, Counter[str]()

    async def move(_url: str, what: str, document: dict[str, Any]) -> dict[str, Any]:
        assert what == "move"
        asked.update(document["grant_ids"])
        came = {
            name: "waits" if name == busy and asked[busy] <= busy_for else "moved" for name in document["grant_ids"]
        }
        came |= {grants[44].grant_id: "there"} if grants[44].grant_id in came else {}
        return {"to": "sealed_documents", "came": came}

    monkeypatch.setattr(cab_ops.cli.grants, "ask_refresh_grants", move)
    monkeypatch.setattr(cab_ops.cli.grants, "_LOOKS_AGAIN_S", 0.05)
    result = cab_command("grants", "move", "--url", "https://refresh.test", "--wait", "1")
    assert result.exit_code == code
    assert counted in result.output
    assert {number for name, number in asked.items() if name != busy} == {1}
    assert asked[busy] > 1
    assert ("run this again" in result.output) == bool(code)


def test_spreading_counts_and_fails_while_some_are_in_use_and_can_be_undone(cloud: Cloud) -> None:
    fields = {name: value for name, value in a_grant(0).model_dump(mode="json").items() if name != "connected_at"}
    fields |= {"status": "refreshing", "connected_at": datetime(2026, 11, 27, tzinfo=UTC)}
    asyncio.run(cloud.grants.write(Create("grants/of-the-last-release", fields)))
    busy = cab_command("grants", "spread")
    assert (busy.exit_code, "written 0, left 1" in busy.output, "run this again" in busy.output) == (1, True, True)
    asyncio.run(cloud.grants.write(Replace("grants/of-the-last-release", fields | {"status": "active"}, version=None)))
    done = cab_command("grants", "spread", "--json")
    assert json.loads(done.stdout) == {"spread": True, "written": 1, "left": 0}
    assert json.loads(cab_command("grants", "spread", "--undo", "--json").stdout) == {"spread": False}
    assert asyncio.run(cloud.grants.read(ARE_SPREAD)) is None
