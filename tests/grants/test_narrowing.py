"""Narrowing by exchange: what leaves is narrow, what is stored stays inside, and the state of the grant decides to the end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from tests.grants.grant_world import CLIENT, ISSUER, READ, WRITE, GrantWorld, Worker
from tests.grants.virtual_time import START, in_virtual_time

from cab.domain.configured.connections import McpServer, SecretReference
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import GrantStatus
from cab.encoding.records import as_json
from cab.ports import AccessToken, HttpAnswer, Unavailable
from cab.protocol import names
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.grants.narrow import NarrowTokens
from cab.use_cases.grants.serve import ServeGrant
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab_dev.doubles.oauth_provider import PROFILES, Exchange, ProviderProfile, token_sha256

EXCHANGES = (names.TOKEN_EXCHANGE, names.JWT_BEARER)
SECRET = "s3cret-of-cab"
OWN_API = ("api://cab/access",)
CONFIDENTIAL = replace(CLIENT, client_secret=SECRET)
PUBLIC_URL = "http://127.0.0.1:8080/connect?connection=double"
DOWNSCOPING = replace(PROFILES["box-like"], name="with-client", exchange=Exchange.WITH_CLIENT)
ROTATING = replace(DOWNSCOPING, name="rotating", old_access_token=PROFILES["github-like"].old_access_token)


class Verifier:
    """Believes every assertion: its text is the user."""

    async def verify(self, assertion: str) -> Assertion:
        return Assertion(
            issuer="https://edge.test",
            subject=assertion,
            tenant="acme",
            idp_issuer="https://idp.test",
            idp_subject_hash="h",
            groups=(),
            front_end="web",
            may_act="assistant",
            txn="txn",
            jti="j",
            issued_at=START,
            expires_at=START + timedelta(seconds=300),
        )


@dataclass
class Instance:
    """One instance of refresh_grants, as exchange_token calls it."""

    world: NarrowingWorld
    worker: Worker
    serve: ServeGrant

    async def token(self, scopes: tuple[str, ...] = READ, user: str = "alice") -> AccessToken:
        token = await self.serve(subject_assertion=user, connection_id="double", scopes=scopes)
        self.world.history.served.append((self.world.clock.now(), token.grant_id, token.outcome))
        self.world.served.append(token)
        return token

    async def refused(self, scopes: tuple[str, ...] = READ) -> BrokerError:
        with pytest.raises(BrokerError) as caught:
            await self.token(scopes)
        return caught.value


class NarrowingWorld(GrantWorld):
    """`forms` are what left for the token endpoint; `answer` may take the place of the double's answers to exchanges."""

    def __init__(self, profile: str | ProviderProfile, connection: Mapping[str, Any], **facts: Any) -> None:
        super().__init__(profile, client=CONFIDENTIAL, connection_changes=connection, **facts)
        self.served: list[AccessToken] = []
        self.forms: list[dict[str, str]] = []
        self.authorizations: list[str | None] = []
        self.answer: Callable[[dict[str, str]], HttpAnswer | None] = lambda _: None
        self._post = self.http.post_form
        self.http.post_form = self._recorded  # type: ignore[method-assign]

    async def open(self) -> NarrowingWorld:
        await super().open()
        await self.vault.create("cab-provider-double")
        await self.vault.add("cab-provider-double", SECRET.encode())
        return self

    async def _recorded(self, url: str, form: Mapping[str, str], **options: Any) -> HttpAnswer:
        form = dict(form)
        self.forms.append(form)
        self.authorizations.append((options.get("headers") or {}).get("Authorization"))
        if form.get("grant_type") in EXCHANGES:
            instead = self.answer(form)
            if instead is not None:
                await asyncio.sleep(self.http.delay_s)
                return instead
        return await self._post(url, form, **options)

    def instance(self, **arguments: Any) -> Instance:
        worker = self.worker(**arguments)
        calls = ProviderCalls(self.http, self.vault)
        narrow = NarrowTokens(
            self.deployment.broker, self.store, worker.refresher, calls, self.clock, timings=self.timings
        )
        nobody: Any = None
        verifier: Any = Verifier()
        return Instance(self, worker, ServeGrant(self.deployment, verifier, worker.refresher, narrow, nobody))

    @property
    def exchanges(self) -> list[dict[str, str]]:
        return [form for form in self.forms if form.get("grant_type") in EXCHANGES]

    def presented(self, form: Mapping[str, str]) -> str:
        return form.get("subject_token") or form["assertion"]

    def call_api(self, token: AccessToken, scope: str) -> bool:
        """What the resource makes of a token."""
        accepted = self.book.accept(token.access_token)
        return accepted is not None and scope in accepted.scopes

    def check_that_wide_tokens_stayed_inside(self) -> None:
        wide = {token_sha256(self.presented(form)) for form in self.exchanges}
        used = {e["token_sha256"] for e in self.book.ledger() if (e["event"], e["kind"]) == ("used", "access")}
        assert wide.isdisjoint(used), "the grant's own token was shown to the resource"
        assert wide.isdisjoint(token_sha256(token.access_token) for token in self.served)


def box(profile: ProviderProfile = PROFILES["box-like"], **changes: Any) -> NarrowingWorld:
    connection = {"client_secret": SecretReference(secret="cab-provider-double"), **changes.pop("connection", {})}
    facts = {
        "narrowing": "token_exchange",
        "narrowing_request": {"client_authentication": profile.exchange is Exchange.WITH_CLIENT},
        "token_endpoint_auth_method": "client_secret_post",
    }
    return NarrowingWorld(profile, connection, **(facts | changes))


def entra(profile: str | ProviderProfile = "entra-like", **changes: Any) -> NarrowingWorld:
    connection = {
        "client_secret": SecretReference(secret="cab-provider-double"),
        "connect_scopes": OWN_API,
        **changes.pop("connection", {}),
    }
    facts = {"narrowing": "on_behalf_of", "token_endpoint_auth_method": "client_secret_post"}
    return NarrowingWorld(profile, connection, **(facts | changes))


BOTH = pytest.mark.parametrize("make", [box, entra], ids=["token_exchange", "on_behalf_of"])


@pytest.fixture(autouse=True)
def nothing_is_logged_that_opens_anything(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    worlds: list[NarrowingWorld] = []
    opened = NarrowingWorld.open

    async def noted(world: NarrowingWorld) -> NarrowingWorld:
        worlds.append(world)
        return await opened(world)

    monkeypatch.setattr(NarrowingWorld, "open", noted)
    with caplog.at_level(logging.DEBUG):
        yield
    for world in worlds:
        secrets = {token.access_token for token in world.served} | {world.presented(form) for form in world.exchanges}
        secrets |= {SECRET, *(form["refresh_token"] for form in world.forms if "refresh_token" in form)}
        events = json.dumps([as_json(event) for event in world.log.events])
        told = caplog.text + events + "".join(repr(token) for token in world.served)
        assert not [secret for secret in secrets if secret in told]
        world.check_that_wide_tokens_stayed_inside()


def answers(document: dict[str, Any], status: int = 200, **headers: str) -> Callable[[dict[str, str]], HttpAnswer]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: HttpAnswer(status, named, json.dumps(document).encode())


def without(form: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in form.items() if key != name}


# --- what is handed out ---


@BOTH
@in_virtual_time
async def test_an_agent_gets_a_token_for_its_action_and_never_the_one_it_was_made_from(make: Any) -> None:
    world = await make().open()
    await world.connect()
    instance = world.instance()

    token = await instance.token(READ)

    assert (token.scopes, token.narrowed, token.outcome) == (READ, True, "success")
    assert world.call_api(token, "read")
    assert not world.call_api(token, "write")
    assert world.refreshes() == len(world.exchanges) == 1
    assert token.expires_at is not None
    assert token.expires_at <= (await world.grant(token.grant_id)).access_expires_at
    assert (token.seq, token.secret_version) == (2, 2)


@BOTH
@in_virtual_time
async def test_a_token_is_kept_for_one_set_of_scopes_and_another_needs_no_refresh(make: Any) -> None:
    world = await make().open()
    await world.connect(expired=False)
    instance = world.instance()
    first, again, other = await instance.token(), await instance.token(), await instance.token(WRITE)
    assert (again.access_token, again.outcome) == (first.access_token, "cached")
    assert (other.scopes, world.call_api(other, "read")) == (WRITE, False)
    assert (len(world.exchanges), world.refreshes()) == (2, 0)


@BOTH
@in_virtual_time
async def test_many_callers_of_an_instance_cost_one_refresh_and_one_exchange(make: Any) -> None:
    world = await make().open()
    await world.connect()
    instance = world.instance()
    tokens = await asyncio.gather(*(instance.token() for _ in range(50)))
    assert len({token.access_token for token in tokens}) == 1
    assert (world.refreshes(), len(world.exchanges)) == (1, 1)
    assert sorted(token.outcome for token in tokens) == ["joined"] * 49 + ["success"]


@BOTH
@in_virtual_time
async def test_a_rotated_grant_is_exchanged_anew(make: Any) -> None:
    world = await make().open()
    name = await world.connect(expired=False)
    instance = world.instance()
    world.answer = answers({"access_token": "lives-for-a-day", "expires_in": 86_400, "scope": "read"})
    await instance.token()
    await world.expire(name)
    world.answer = lambda _: None
    assert world.call_api(await instance.token(), "read")
    assert world.presented(world.exchanges[0]) != world.presented(world.exchanges[1])
    assert world.refreshes() == 1


@BOTH
@in_virtual_time
async def test_a_new_consent_is_exchanged_anew_though_the_token_of_the_former_one_lives(make: Any) -> None:
    world = await make().open()
    name = await world.connect(expired=False)
    instance = world.instance()
    first = await instance.token()
    await world.reconnect(name)
    second = await instance.token()
    assert second.access_token != first.access_token
    assert world.presented(world.exchanges[0]) != world.presented(world.exchanges[1])


@in_virtual_time
async def test_base_scopes_in_the_answer_are_neither_wide_nor_told() -> None:
    world = await entra().open()
    await world.connect(expired=False)
    world.answer = answers({"access_token": "narrow", "scope": "offline_access read"})
    token = await world.instance().token()
    assert (token.scopes, token.narrowed) == (READ, True)


@BOTH
@in_virtual_time
async def test_a_narrow_token_ends_with_the_one_it_was_made_from(make: Any) -> None:
    world = await make().open()
    name = await world.connect(expired=False)
    ends = timedelta(seconds=world.profile.access_token_life_s)
    await world.sleep(ends.total_seconds() - 300)
    world.answer = answers({"access_token": "narrow", "expires_in": 86_400, "scope": "read"})
    token = await world.instance().token()
    assert token.access_token == "narrow"
    assert token.expires_at is not None
    assert timedelta(0) <= token.expires_at - (START + ends) < timedelta(seconds=1)
    assert (await world.grant(name)).seq == 1


@in_virtual_time
async def test_another_users_grant_is_another_token() -> None:
    world = await entra().open()
    await world.connect("alice")
    await world.connect("bob")
    instance = world.instance()
    of_alice, of_bob = await instance.token(), await instance.token(user="bob")
    assert of_alice.grant_id != of_bob.grant_id
    assert of_alice.access_token != of_bob.access_token


@in_virtual_time
async def test_who_granted_less_than_the_action_needs_gets_nothing_by_exchange() -> None:
    world = await box().open()
    world.connection = world.connection.model_copy(update={"connect_scopes": WRITE})  # all that this user agrees to
    await world.connect()
    assert (await world.instance().refused(READ)).reason is Reason.SCOPE_NOT_GRANTABLE
    assert world.exchanges == []


# --- what is sent ---


@in_virtual_time
async def test_downscoping_presents_the_token_alone_where_the_provider_wants_that() -> None:
    world = await box().open()
    await world.connect(expired=False)
    await world.instance().token()
    (form,) = world.exchanges
    assert without(form, "subject_token") == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "scope": "read",
    }
    assert world.authorizations == [None]


@in_virtual_time
async def test_downscoping_authenticates_the_client_and_names_the_resource_where_the_provider_wants_that() -> None:
    asks = {"client_authentication": True, "resource": True}
    world = await box(DOWNSCOPING, narrowing_request=asks, token_endpoint_auth_method="client_secret_basic").open()
    await world.connect(expired=False)
    await world.instance().token()
    (form,) = world.exchanges
    assert form["resource"] == ISSUER
    assert (world.authorizations[0] or "").startswith("Basic ")


@in_virtual_time
async def test_downscoping_for_an_mcp_server_names_its_resource_without_being_told_to() -> None:
    mcp = McpServer(endpoint=f"{ISSUER}/mcp", protocol="2026-07-28")
    world = await box(connection={"mcp": mcp}).open()
    await world.connect()
    await world.instance().token()
    assert [form["resource"] for form in world.forms] == [ISSUER] * 2  # the refresh of the wide one, and the exchange


@in_virtual_time
async def test_on_behalf_of_is_asked_for_as_microsoft_documents_it() -> None:
    world = await entra().open()
    name = await world.connect(expired=False)
    token = await world.instance().token()
    (form,) = world.exchanges
    (exchanged,) = [entry for entry in world.book.ledger() if entry["event"] == "exchanged"]
    assert token_sha256(form["assertion"]) == exchanged["token_sha256"]
    assert without(form, "assertion") == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "requested_token_use": "on_behalf_of",
        "scope": "read",
        "client_id": "cab",
        "client_secret": SECRET,
    }
    assert (await world.grant(name)).scopes == [*OWN_API, "offline_access"]
    assert token.scopes == READ


@in_virtual_time
async def test_a_refresh_token_that_comes_with_a_narrow_token_is_dropped() -> None:
    world = await entra().open()
    name = await world.connect()
    answer = {"access_token": "narrow", "refresh_token": "unasked", "expires_in": 300, "scope": "read"}
    world.answer = answers(answer)
    assert (await world.instance().token()).access_token == "narrow"
    stored = json.dumps(world.vault._secrets, default=str)
    documents = json.dumps([d.fields for d in world.documents._documents.values()], default=str)
    assert "unasked" not in stored + documents
    assert (await world.stored_refresh_token(name)) in world.usable()


# --- the state of the grant ---


@BOTH
@in_virtual_time
async def test_what_was_revoked_while_the_provider_was_asked_is_not_handed_out(make: Any) -> None:
    world = await make().open()
    name = await world.connect()
    instance = world.instance()
    world.http.delay_s = 1
    asking = asyncio.create_task(instance.refused())
    while not world.exchanges:
        await asyncio.sleep(0.1)
    await world.worker().revoke(name)
    refusal = await asking
    assert (refusal.reason, refusal.remedy.interaction_uri) == (Reason.GRANT_REVOKED, PUBLIC_URL)
    assert (await instance.refused()).reason is Reason.GRANT_REVOKED
    assert len(world.exchanges) == 1


@BOTH
@in_virtual_time
async def test_a_token_of_the_former_consent_is_not_handed_out_after_the_user_connected_anew(make: Any) -> None:
    world = await make().open()
    name = await world.connect(expired=False)
    instance = world.instance()
    world.http.delay_s = 3
    asking = asyncio.create_task(instance.refused())
    while not world.exchanges:
        await asyncio.sleep(0.1)
    await world.change(name, status=GrantStatus.REVOKED, revoke_epoch=1, fence=5)
    await world.reconnect(name)
    assert (await asking).reason is Reason.GRANT_REVOKED
    world.http.delay_s = 0.01
    assert world.call_api(await instance.token(), "read")
    assert world.presented(world.exchanges[0]) != world.presented(world.exchanges[1])


@BOTH
@in_virtual_time
async def test_what_was_put_into_quarantine_while_the_provider_was_asked_is_not_handed_out(make: Any) -> None:
    world = await make().open()
    name = await world.connect(expired=False)
    world.http.delay_s = 1
    asking = asyncio.create_task(world.instance().refused())
    while not world.exchanges:
        await asyncio.sleep(0.1)
    await world.change(name, status=GrantStatus.QUARANTINED)
    assert (await asking).reason is Reason.GRANT_REVOKED


@BOTH
@in_virtual_time
async def test_a_kept_token_is_not_handed_out_once_the_grant_was_revoked(make: Any) -> None:
    world = await make().open()
    name = await world.connect()
    instance = world.instance()
    await instance.token()
    await world.worker().revoke(name)
    assert (await instance.refused()).reason is Reason.GRANT_REVOKED
    assert len(world.exchanges) == 1


@in_virtual_time
async def test_a_grant_that_does_not_exist_is_missing() -> None:
    world = await entra().open()
    refusal = await world.instance().refused()
    assert (refusal.reason, refusal.remedy.interaction_uri) == (Reason.GRANT_MISSING, PUBLIC_URL)
    assert world.forms == []


@in_virtual_time
async def test_a_dead_refresh_token_is_told_as_always() -> None:
    world = await entra().open()
    name = await world.connect()
    world.book.end_account("double-1001")
    assert (await world.instance().refused()).reason is Reason.GRANT_NEEDS_REAUTH
    assert (await world.grant(name)).status is GrantStatus.NEEDS_REAUTH
    assert world.exchanges == []


@in_virtual_time
async def test_a_token_that_a_refresh_elsewhere_has_ended_is_replaced_by_its_successor() -> None:
    world = await box(ROTATING).open()
    await world.connect(expired=False)
    here, elsewhere = world.instance(), world.instance()
    margin_s = world.provider.refresh_margin_s
    await world.sleep(world.profile.access_token_life_s - margin_s - 1)
    world.http.delay_s = 5
    asking = asyncio.create_task(here.token())
    while not world.exchanges:
        await asyncio.sleep(0.1)
    world.http.delay_s = 0.01
    await world.sleep(2)  # now within the margin: the other instance refreshes, which ends the token that is on its way

    assert world.call_api(await elsewhere.token(), "read")
    token = await asking

    assert world.call_api(token, "read")
    assert token.secret_version == 2
    first, _, last = [world.presented(form) for form in world.exchanges]
    assert first != last
    assert world.refreshes() == 1


@in_virtual_time
async def test_a_successor_that_is_not_taken_either_is_for_the_user_to_mend() -> None:
    world = await box().open()
    name = await world.connect(expired=False)
    instance = world.instance()
    world.answer = answers({"error": "invalid_grant"}, 400)
    world.http.delay_s = 1
    asking = asyncio.create_task(instance.refused())
    while not world.exchanges:
        await asyncio.sleep(0.1)
    await world.reconnect(name)
    assert (await asking).reason is Reason.GRANT_NEEDS_REAUTH
    assert len(world.exchanges) == 2
    assert (await world.grant(name)).status is GrantStatus.ACTIVE


@in_virtual_time
async def test_without_the_client_secret_nothing_is_sent_and_nobody_is_blamed() -> None:
    world = await entra().open()
    await world.connect(expired=False)
    instance = world.instance()
    del world.vault._secrets["cab-provider-double"]
    with pytest.raises(Unavailable, match="secrets"):
        await instance.token()
    assert world.exchanges == []


# --- what the provider says ---


@BOTH
@in_virtual_time
async def test_a_wider_token_than_asked_for_is_not_handed_out(make: Any) -> None:
    world = await make().open()
    await world.connect(expired=False)
    instance = world.instance()
    world.fault(endpoint="token", kind="answer", answer="extra_scope", count=1)
    assert (await instance.refused()).reason is Reason.SCOPE_NOT_GRANTABLE
    assert (await instance.token()).scopes == READ  # the wide one was not kept


@BOTH
@in_virtual_time
async def test_a_wider_token_is_handed_out_and_called_so_where_the_connection_accepts_it(make: Any) -> None:
    world = await make(connection={"allow_unnarrowed": True}).open()
    await world.connect(expired=False)
    world.answer = answers({"access_token": "wide", "scope": "read write"})
    token = await world.instance().token()
    assert (token.scopes, token.narrowed) == (("read", "write"), False)


@BOTH
@in_virtual_time
async def test_the_token_that_was_to_be_narrowed_is_not_handed_out_when_it_comes_back(make: Any) -> None:
    world = await make().open()
    await world.connect(expired=False)
    world.answer = lambda form: HttpAnswer(200, {}, json.dumps({"access_token": world.presented(form)}).encode())
    assert (await world.instance().refused()).reason is Reason.SCOPE_NOT_GRANTABLE


@in_virtual_time
async def test_scopes_in_a_list_of_restrictions_count_as_box_names_them() -> None:
    world = await box(scope_claim="restricted_to.scope").open()
    await world.connect(expired=False)
    instance = world.instance()

    def restricted_to(*scopes: str) -> Callable[[dict[str, str]], HttpAnswer]:
        entries = [{"scope": scope, "object": {"type": "folder", "id": "1"}} for scope in scopes]
        return answers({"access_token": "narrow", "expires_in": 4175, "restricted_to": entries})

    world.answer = restricted_to("read", "write")
    assert (await instance.refused()).reason is Reason.SCOPE_NOT_GRANTABLE
    world.answer = restricted_to("read", "read")
    assert (await instance.token()).narrowed
    world.answer = restricted_to()
    assert (await instance.token(WRITE)).scopes == WRITE  # nothing said: as asked for


ANSWERS: dict[str, tuple[dict[str, Any], int, Reason]] = {
    "refused scope": ({"error": "invalid_scope"}, 400, Reason.SCOPE_NOT_GRANTABLE),
    "other scopes": ({"access_token": "t", "scope": "write"}, 200, Reason.SCOPE_NOT_GRANTABLE),
    "our client": ({"error": "invalid_client"}, 401, Reason.PROVIDER_UNAVAILABLE),
    "our resource": ({"error": "invalid_target"}, 400, Reason.PROVIDER_UNAVAILABLE),
    "scope, further inside": ({"error": {"code": "invalid_scope"}}, 400, Reason.SCOPE_NOT_GRANTABLE),
    "for a while": ({"error": "temporarily_unavailable"}, 400, Reason.PROVIDER_UNAVAILABLE),
    "busy": ({"error": "slow_down"}, 429, Reason.PROVIDER_UNAVAILABLE),
    "broken": ({"error": "invalid_grant"}, 503, Reason.PROVIDER_UNAVAILABLE),
    "no token": ({}, 200, Reason.PROVIDER_UNAVAILABLE),
    "another kind of token": (
        {"access_token": "t", "issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        200,
        Reason.PROVIDER_UNAVAILABLE,
    ),
}


@BOTH
@pytest.mark.parametrize(("document", "status", "reason"), ANSWERS.values(), ids=ANSWERS)
@in_virtual_time
async def test_every_refusal_has_its_reason_and_ends_nothing(
    make: Any, document: dict[str, Any], status: int, reason: Reason
) -> None:
    world = await make().open()
    name = await world.connect(expired=False)
    instance = world.instance()
    world.answer = answers(document, status, retry_after="7")
    refusal = await instance.refused()
    assert refusal.reason is reason
    assert refusal.remedy.retry_after_s == (7 if reason is Reason.PROVIDER_UNAVAILABLE else None)
    asked = len(world.exchanges)
    if reason is Reason.PROVIDER_UNAVAILABLE:
        assert (await instance.refused()).reason is reason
        assert len(world.exchanges) == asked, "a provider that asked for time is given it"
        await world.sleep(8)
    world.answer = lambda _: None
    assert world.call_api(await instance.token(), "read")
    assert (await world.grant(name)).status is GrantStatus.ACTIVE


@BOTH
@pytest.mark.parametrize(
    ("document", "status"),
    [({"error": "invalid_client"}, 401), ({"message": "Invalid client secret"}, 400), ({}, 404)],
    ids=["code", "words", "address"],
)
@in_virtual_time
async def test_a_refusal_of_our_own_client_is_told_to_the_operator(
    make: Any, document: dict[str, Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = await make().open()
    await world.connect(expired=False)
    world.answer = answers(document, status)
    assert (await world.instance().refused()).reason is Reason.PROVIDER_UNAVAILABLE
    assert "refuses our client, connection double: http " in caplog.text


CHALLENGE = {"error": "interaction_required", "claims": '{"access_token":{"polids":{"essential":true}}}'}
CONSENT: dict[str, dict[str, Any]] = {
    "a log-in": CHALLENGE,
    "consent": {"error": "consent_required"},
    "consent, as invalid_grant": {"error": "invalid_grant", "suberror": "consent_required", "error_codes": [65001]},
    "more claims": {"error": "access_denied", "claims": "{}"},
    "consent, further inside": {"error": {"code": "Consent_Required", "message": "no"}},
}


@pytest.mark.parametrize("document", CONSENT.values(), ids=CONSENT)
@in_virtual_time
async def test_missing_consent_is_for_the_user_to_mend_and_leaves_the_grant_to_other_actions(
    document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    world = await entra().open()
    name = await world.connect(expired=False)
    instance = world.instance()

    def refuses_to_write(form: dict[str, str]) -> HttpAnswer | None:
        return answers(document, 400)(form) if form["scope"] == "write" else None

    world.answer = refuses_to_write
    refusal = await instance.refused(WRITE)
    assert (refusal.reason, refusal.remedy.interaction_uri) == (Reason.GRANT_NEEDS_REAUTH, PUBLIC_URL)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    assert (await instance.token(READ)).scopes == READ
    assert len(world.exchanges) == 2
    assert world.refreshes() == 0
    assert "narrowing at double refused: " in caplog.text
    assert "polids" not in caplog.text
    world.answer = lambda _: None  # the administrator consents: at once it works
    assert (await instance.token(WRITE)).scopes == WRITE


@in_virtual_time
async def test_a_double_without_consent_says_so() -> None:
    world = await entra().open()
    object.__setattr__(world.double.settings, "consented_scopes", frozenset(READ))
    await world.connect(expired=False)
    instance = world.instance()
    assert (await instance.refused(WRITE)).reason is Reason.GRANT_NEEDS_REAUTH
    assert (await instance.token(READ)).scopes == READ


@pytest.mark.parametrize("error", ["invalid_request", "invalid_grant", "invalid_token"])
@in_virtual_time
async def test_a_token_that_the_provider_does_not_take_is_for_the_user_to_mend(error: str) -> None:
    world = await box().open()
    name = await world.connect(expired=False)
    world.answer = answers({"error": error}, 400)
    refusal = await world.instance().refused()
    assert (refusal.reason, refusal.remedy.interaction_uri) == (Reason.GRANT_NEEDS_REAUTH, PUBLIC_URL)
    assert len(world.exchanges) == 1, "the same token is not presented twice"
    assert (await world.grant(name)).status is GrantStatus.ACTIVE


@BOTH
@in_virtual_time
async def test_a_provider_that_is_down_or_hangs_is_unavailable_in_time(make: Any) -> None:
    world = await make().open()
    await world.connect(expired=False)
    instance = world.instance()
    world.http.refuses = True
    assert (await instance.refused()).reason is Reason.PROVIDER_UNAVAILABLE
    world.http.refuses = False
    await world.sleep(3)
    world.fault(endpoint="token", kind="hang")
    asked_at = world.clock.now()
    assert (await instance.refused()).reason is Reason.PROVIDER_UNAVAILABLE
    assert world.clock.now() - asked_at <= timedelta(seconds=12)


@BOTH
@in_virtual_time
async def test_after_a_slow_refresh_no_exchange_is_begun_that_could_not_end_in_time(make: Any) -> None:
    world = await make().open()
    name = await world.connect()
    world.fault(endpoint="token", kind="slow", seconds=9, count=1)
    instance, asked_at = world.instance(), world.clock.now()
    refusal = await instance.refused()
    assert (refusal.reason, refusal.remedy.retry_after_s) == (Reason.PROVIDER_UNAVAILABLE, 2)
    assert world.clock.now() - asked_at <= timedelta(seconds=12)
    assert ((await world.grant(name)).seq, world.exchanges) == (2, [])
    await world.sleep(3)
    assert world.call_api(await instance.token(), "read")
    assert world.refreshes() == 1


@BOTH
@in_virtual_time
async def test_a_caller_that_leaves_does_not_stop_the_others(make: Any) -> None:
    world = await make().open()
    await world.connect(expired=False)
    instance = world.instance()
    world.http.delay_s = 1
    leaving = asyncio.create_task(instance.token())
    while not world.exchanges:
        await asyncio.sleep(0.1)
    staying = asyncio.create_task(instance.token())
    await asyncio.sleep(0.1)
    leaving.cancel()
    assert (await staying).scopes == READ
    assert len(world.exchanges) == 1
