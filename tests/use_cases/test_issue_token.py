"""A platform's token in exchange_token's memory: when it still serves, and what is said of its life."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tests.support.world import deployment

from cab.adapters.system import SystemRandomness
from cab.domain.configured.connections import Provider, RotationClass
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import Grant, GrantStatus, grant_id
from cab.domain.identifiers import token_sha256
from cab.ports import AccessToken, Foretell, Unavailable
from cab.stores.grants import Grants
from cab.use_cases.exchange.issue import DownstreamTokens, Issued
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CONNECTION = deployment().connection_by_id["crm"]
PROVIDER = deployment().provider_of(CONNECTION)
NAME = grant_id("acme", "alice", "crm")


class Assertion:
    tenant, subject, txn, groups = "acme", "alice", "t", ()


class Refresher:
    """refresh_grants: a new token for each call."""

    def __init__(self) -> None:
        self.asked = 0
        self.facts: dict[str, Any] = {"expires_at": NOW + timedelta(hours=1)}
        self.foretells: AccessToken | None = None
        self.go_on = asyncio.Event()
        self.is_away = False

    async def access_token(self, *, foretell: Foretell | None = None, **_: Any) -> AccessToken:
        self.asked += 1
        if self.foretells is not None and foretell is not None:
            foretell(self.foretells.foretold())
            await self.go_on.wait()
        if self.is_away:
            raise Unavailable("grants")
        facts: dict[str, Any] = {
            "access_token": f"token-{self.asked}",
            "scopes": ("r",),
            "narrowed": True,
            "grant_id": NAME,
            "seq": 1,
            "secret_version": 1,
            "outcome": "success",
        }
        return AccessToken(**facts | self.facts)


class Desk:
    def __init__(self, **broker: object) -> None:
        self.clock = SettableClock(NOW)
        self.store = Grants(InMemoryDocuments())
        self.refresher = Refresher()
        self.provider = PROVIDER
        self.grant = Grant(
            grant_id=NAME,
            tenant="acme",
            subject="alice",
            connection="crm",
            provider="crm",
            provider_class=RotationClass.STRICT,
            secret_version=1,
            connected_at=NOW,
        )
        found = deployment()
        desk, broker_changes = self, broker

        class Deployment:
            broker = found.broker.model_copy(update=broker_changes)

            def provider_of(self, _: object) -> Provider:
                return desk.provider

        self.vouched = 0
        self.tokens = DownstreamTokens(
            cast(Any, Deployment()),
            self.store,
            cast(Any, self.refresher),
            cast(Any, None),
            self.clock,
            SystemRandomness(),
        )

    def kind(self, old_access_token: str, **changes: object) -> None:
        rotation = PROVIDER.rotation.model_copy(update={"old_access_token": old_access_token})
        self.provider = PROVIDER.model_copy(update={"rotation": rotation, **changes})

    async def issue(self, *scopes: str) -> Issued:
        return await self.tokens.issue(
            CONNECTION, self.grant, cast(Any, Assertion()), subject_assertion=self._vouch, scopes=scopes or ("r",)
        )

    async def _vouch(self) -> str:
        self.vouched += 1
        return "a"


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_token_serves_until_its_renewal_and_not_a_moment_longer(desk: Desk) -> None:
    desk.refresher.facts |= {"renew_at": NOW + timedelta(minutes=50)}
    assert (await desk.issue()).token == "token-1"
    desk.clock.advance(timedelta(minutes=50) - SECOND)
    assert (await desk.issue()).token == "token-1"
    assert desk.vouched == 1  # only where somebody wants to see it: signing is the dearest part of an exchange
    desk.clock.advance(SECOND)
    assert (await desk.issue()).token == "token-2"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(GrantStatus.REVOKED, Reason.GRANT_REVOKED), (GrantStatus.NEEDS_REAUTH, Reason.GRANT_NEEDS_REAUTH)],
)
async def test_a_remembered_token_does_not_outlive_its_grant(desk: Desk, status: GrantStatus, reason: Reason) -> None:
    await desk.issue()
    desk.grant = desk.grant.model_copy(update={"status": status})
    with pytest.raises(BrokerError) as refused:
        await desk.issue()
    assert refused.value.reason is reason
    assert desk.refresher.asked == 1


async def test_without_a_word_on_renewal_the_providers_margin_counts(desk: Desk) -> None:
    """As an older refresh_grants answers, while both are being replaced."""
    desk.kind("lives_on", refresh_margin_s=100)
    await desk.issue()
    desk.clock.advance(timedelta(seconds=3499))
    assert (await desk.issue()).token == "token-1"
    desk.clock.advance(SECOND)
    assert (await desk.issue()).token == "token-2"


@pytest.mark.parametrize(("configured", "life_s"), [(None, 300), (900, 900)])
async def test_a_token_without_an_end_is_kept_and_promised_for_what_the_provider_is_known_to_give(
    desk: Desk, configured: int | None, life_s: int
) -> None:
    desk.kind("lives_on", access_token_lifetime_s=configured)
    desk.refresher.facts = {"expires_at": None}
    assert (await desk.issue()).expires_at == NOW + timedelta(seconds=life_s)
    desk.clock.advance(timedelta(days=1))
    again = await desk.issue()
    assert again.token == "token-1"
    assert again.expires_at == NOW + timedelta(days=1, seconds=life_s)


async def test_nothing_that_was_given_before_a_revocation_serves_after_it(desk: Desk) -> None:
    await desk.issue()
    desk.grant = desk.grant.model_copy(update={"revoke_epoch": 1})
    assert (await desk.issue()).token == "token-2"
    assert (await desk.issue()).token == "token-2"


@pytest.mark.parametrize(
    ("kind", "token"), [("lives_on", "token-1"), ("dies_at_once", "token-2"), ("unknown", "token-2")]
)
async def test_after_a_refresh_an_older_token_serves_only_where_it_lives_on(desk: Desk, kind: str, token: str) -> None:
    desk.kind(kind)
    await desk.issue()
    desk.grant = desk.grant.model_copy(update={"secret_version": 2})
    assert (await desk.issue()).token == token


async def test_a_token_serves_nobody_who_asks_for_other_scopes(desk: Desk) -> None:
    await desk.issue("r")
    assert (await desk.issue("w")).token == "token-2"
    assert (await desk.issue("r")).token == "token-1"


async def test_what_is_promised_is_the_time_for_which_no_refresh_of_ours_ends_it(desk: Desk) -> None:
    desk.kind("dies_at_once")
    desk.refresher.facts |= {"works_until": NOW + timedelta(minutes=30)}
    assert (await desk.issue()).expires_at == NOW + timedelta(minutes=30)


async def test_a_grant_that_keeps_no_tokens_is_no_connection(desk: Desk) -> None:
    for grant in (None, desk.grant.model_copy(update={"secret_version": 0})):
        with pytest.raises(BrokerError) as refused:
            desk.tokens.check_servable(CONNECTION, grant)
        assert refused.value.reason is Reason.GRANT_MISSING
        assert refused.value.remedy.interaction_uri is not None
    desk.tokens.check_servable(CONNECTION, desk.grant)


@pytest.mark.parametrize("stands_for_s", [0, 60])
async def test_a_grants_status_stands_for_as_long_as_an_operator_says_and_no_longer(stands_for_s: int) -> None:
    desk = Desk(grant_status_cache_s=stands_for_s)
    assertion = cast(Any, Assertion())
    assert await desk.tokens.read_grant(CONNECTION, assertion) is None  # what is not there is looked for each time
    stored = await desk.store.create(desk.grant)
    assert stored is not None
    assert await desk.tokens.read_grant(CONNECTION, assertion) == desk.grant
    revoked = desk.grant.model_copy(update={"status": GrantStatus.REVOKED})
    await desk.store.replace(stored, revoked)

    desk.clock.advance(timedelta(seconds=59))
    assert await desk.tokens.read_grant(CONNECTION, assertion) == (desk.grant if stands_for_s else revoked)
    desk.clock.advance(timedelta(seconds=1))
    assert await desk.tokens.read_grant(CONNECTION, assertion) == revoked


async def test_a_grants_status_that_was_read_while_the_clock_was_fast_does_not_stand_until_that_time() -> None:
    desk = Desk(grant_status_cache_s=60)
    assertion = cast(Any, Assertion())
    stored = await desk.store.create(desk.grant)
    assert stored is not None
    desk.clock.advance(timedelta(hours=1))
    assert await desk.tokens.read_grant(CONNECTION, assertion) == desk.grant
    revoked = desk.grant.model_copy(update={"status": GrantStatus.REVOKED})
    await desk.store.replace(stored, revoked)
    desk.clock.advance(timedelta(hours=-1))
    assert await desk.tokens.read_grant(CONNECTION, assertion) == revoked


async def test_whoever_wants_to_know_a_grants_status_afresh_does() -> None:
    desk = Desk(grant_status_cache_s=60)
    assertion = cast(Any, Assertion())
    stored = await desk.store.create(desk.grant)
    assert stored is not None
    assert await desk.tokens.read_grant(CONNECTION, assertion) == desk.grant
    revoked = desk.grant.model_copy(update={"status": GrantStatus.REVOKED})
    await desk.store.replace(stored, revoked)
    assert await desk.tokens.read_grant(CONNECTION, assertion, fresh=True) == revoked


# --- tokens that are foretold ---


async def foretold(desk: Desk, **changes: Any) -> Issued:
    """Told beforehand of the token that will come, or of one that differs in this."""
    plain = await Refresher().access_token()
    desk.refresher.foretells = replace(plain, **changes)
    return await desk.issue()


async def test_a_foretold_token_is_issued_with_all_but_itself_and_remembered_when_it_is_here(desk: Desk) -> None:
    issued = await foretold(desk)
    assert (issued.token, issued.sha256) == ("", token_sha256("token-1"))
    assert (issued.grant_seq, issued.secret_version, issued.scopes, issued.narrowed) == (1, 1, ("r",), True)
    await desk.issue()
    assert desk.refresher.asked == 2, "nothing is in memory yet"
    desk.refresher.facts |= {"access_token": "token-1"}
    desk.refresher.go_on.set()
    assert await issued.arrived() == replace(issued, token="token-1", arriving=None)
    assert (await desk.issue()).token == "token-1"
    assert desk.refresher.asked == 2


@pytest.mark.parametrize(
    "change",
    [
        {"access_token": "another"},
        {"seq": 2},
        {"secret_version": 2},
        {"scopes": ("r", "w")},
        {"narrowed": False},
        {"expires_at": NOW + timedelta(hours=2)},
    ],
    ids=str,
)
async def test_another_token_than_was_foretold_does_not_leave_and_serves_the_next(
    desk: Desk, change: dict[str, Any]
) -> None:
    issued = await foretold(desk, **change)
    desk.refresher.go_on.set()
    with pytest.raises(Unavailable) as failed:
        await issued.arrived()
    assert failed.value.what == "grants"
    assert (await desk.issue()).token == "token-1"


async def test_a_token_that_never_comes_is_an_outage_and_is_not_remembered(desk: Desk) -> None:
    issued = await foretold(desk)
    desk.refresher.is_away = True
    desk.refresher.go_on.set()
    with pytest.raises(Unavailable):
        await issued.arrived()
    with pytest.raises(Unavailable):
        await desk.issue()


async def test_while_a_token_is_remembered_nothing_is_foretold(desk: Desk) -> None:
    """Only its use is put on record then, and it serves also when that fails."""
    desk.refresher.facts |= {"expires_at": NOW + timedelta(days=9), "renew_at": NOW + timedelta(days=9)}
    counted(desk, last_used_at=NOW)
    await desk.issue()
    desk.clock.advance(timedelta(days=1))
    assert (await foretold(desk)).token == "token-2"


# --- grants that end unused ---


def counted(desk: Desk, *, last_used_at: datetime) -> None:
    desk.grant = desk.grant.model_copy(
        update={"last_used_at": last_used_at, "ends_unused_at": last_used_at + timedelta(days=31)}
    )


async def test_a_remembered_token_serves_alone_once_the_days_use_is_on_record(desk: Desk) -> None:
    desk.refresher.facts |= {"expires_at": NOW + timedelta(days=9), "renew_at": NOW + timedelta(days=9)}
    counted(desk, last_used_at=NOW)
    for _ in range(3):
        await desk.issue()
    assert desk.refresher.asked == 1
    desk.clock.advance(timedelta(days=1))
    await desk.issue()
    assert desk.refresher.asked == 2, "memory alone would let a grant in use end for lying unused"


async def test_a_remembered_token_serves_although_its_use_cannot_be_put_on_record(desk: Desk) -> None:
    desk.refresher.facts |= {"expires_at": NOW + timedelta(days=9), "renew_at": NOW + timedelta(days=9)}
    counted(desk, last_used_at=NOW)
    await desk.issue()

    async def away(**_: Any) -> AccessToken:
        raise Unavailable("grants")

    desk.refresher.access_token = away  # type: ignore[method-assign]
    desk.clock.advance(timedelta(days=2))
    assert (await desk.issue()).token == "token-1"
    desk.clock.advance(timedelta(days=8))
    with pytest.raises(Unavailable):
        await desk.issue()
