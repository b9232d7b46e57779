"""Tokens on the organisation's trust: who gets one, for what, from whom, and when not."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote

import jwt
import pytest
from tests.dev.doubles.provider_client import ISSUER, SECRET, ProviderUnderTest
from tests.support.jose import Key, ec_key, key_set, rsa_key
from tests.support.web import Sent, Web, WebClient, json_answer

from cab.domain.configured.actions import Action
from cab.domain.configured.connections import Connection, GrantKind, Provider, Revocation, SecretReference
from cab.domain.configured.deployment import Broker, Deployment, Tenant
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import PRODUCTION_TIMINGS, Grant, GrantStatus, grant_id
from cab.ports import AccessToken, HttpAnswer, NotFound, Unavailable
from cab.protocol.jose.jwk import PublicKey
from cab.protocol.tokens import subject_tokens
from cab.protocol.tokens.assertions import Assertion
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import Grants
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.grants.move import MoveGrants
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.grants.refresh.escrow import Escrow
from cab.use_cases.grants.revoke import RevokeGrants
from cab.use_cases.grants.sweep import SweepGrants
from cab.use_cases.grants.trusted.tokens import TrustedTokens
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.revoke import RevokeUpstream
from cab.use_cases.upstream.users import statement_about
from cab_dev.doubles.oauth_provider import TrustedIssuer
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.randomness import PredictableRandomness
from cab_dev.fakes.secrets import InMemoryVault
from cab_ops.configuration.provider_table import presets

START = datetime.fromtimestamp(1_800_000_000, UTC)
STS = "https://cab.test/oauth2"
AT_PROVIDER = "cab-at-the-provider"
_numbers = itertools.count()
STS_KEY, BEARER_KEY, BEARER_RSA_KEY = ec_key("sts"), ec_key("bearer"), rsa_key("bearer-rsa")
READ, WRITE = ("read",), ("write",)
TIMINGS = replace(PRODUCTION_TIMINGS, provider_timeout=timedelta(seconds=0.2))


def assertion(subject: str = "key-of-alice", **changes: Any) -> Assertion:
    known: dict[str, Any] = {
        "issuer": "https://cab.test/edge",
        "subject": subject,
        "tenant": "acme",
        "idp_issuer": "https://idp.test",
        "idp_subject_hash": "h",
        "groups": ("staff",),
        "front_end": "web",
        "may_act": "assistant",
        "txn": "txn-1",
        "jti": "j",
        "issued_at": START,
        "expires_at": START + timedelta(seconds=300),
    }
    return Assertion(**(known | changes))


class OwnKeys:
    async def find(self, issuer: str, kid: str | None, algorithm: str, **_: Any) -> PublicKey:
        if (issuer, kid, algorithm) != (STS, STS_KEY.kid, "ES256"):
            raise NotFound
        return PublicKey(kid=kid, algorithm="ES256", key=STS_KEY.private.public_key())


class Desk:
    """refresh_grants at one connection, with a provider double that trusts it. `sent` are the forms that left."""

    def __init__(self, kind: GrantKind, *, key: Key = BEARER_KEY, allow_unnarrowed: bool = False, **facts: Any) -> None:
        bearer, mapped = kind is GrantKind.JWT_BEARER, kind.serves_mapped_users_only
        issuer, signer = ("cab", key) if bearer else (STS, STS_KEY)
        logins = {"alice@acme.test": "double-1001", "bob@acme.test": "double-1002"}
        subjects = {"key-of-alice": "double-1001", "key-of-bob": "double-1002"}
        trusted = TrustedIssuer(
            issuer=issuer,
            jwks=lambda: key_set(signer),
            accounts=logins if mapped else subjects | logins,
            audiences=(AT_PROVIDER,),
            id_jags=kind is GrantKind.ID_JAG,
        )
        self.double = ProviderUnderTest("google-like", trusted_issuers=(trusted,))
        self.clock = SettableClock(START)
        self.answer: Callable[[Sent], Awaitable[HttpAnswer]] = self._from_double
        self.web = Web(hosts={ISSUER: self._answer})
        self.vault = InMemoryVault()
        self.log = InMemoryAuditLog(service="refresh_grants", revision="r")
        self.documents = InMemoryDocuments(clock=self.clock)
        self.store = Grants(self.documents)
        self.key = key
        self.provider = Provider.model_validate(
            {
                "id": "double",
                "title": "Double",
                "issuer": ISSUER,
                "token_endpoint": f"{ISSUER}/oauth/token",
                "grant_kinds": (kind,),
                "exchange_audience": "//iam.test/pool",
                "subject_token_audience": AT_PROVIDER,
                "revocation": Revocation(endpoint=f"{ISSUER}/oauth/revoke", blast_radius="grant"),
                "keepalive_s": 3600,
            }
            | facts
        )
        actions = tuple(
            Action.model_validate(
                {
                    "id": f"double.thing.{name}",
                    "title": name,
                    "effect": name,
                    "scopes": (name,),
                    "identifier": "thing/{id}",
                }
            )
            for name in ("read", "write")
        )
        self.connection = Connection(
            id="double",
            title="Double",
            provider="double",
            resource=ISSUER,
            tenants=("acme",),
            grant_kind=kind,
            client_id="cab",
            client_secret=SecretReference(secret="cab-provider-double"),
            assertion_key=SecretReference(secret="cab-assertion-double") if bearer else None,
            user_map={"key-of-alice": "alice@acme.test", "key-of-bob": "bob@acme.test"} if mapped else {},
            allow_unnarrowed=allow_unnarrowed,
            actions=actions,
        )
        self.deployment = Deployment(
            broker=Broker(origin="https://cab.test", tenants=(Tenant(id="acme", title="Acme"),)),
            identity_providers=(),
            front_ends=(),
            agents=(),
            connections=(self.connection,),
            provider_by_id={self.provider.id: self.provider},
            policies=(),
            policy_version="test",
        )
        self.start()

    def start(self) -> None:
        """A fresh instance, which remembers no token."""
        http = WebClient(self.web, [ISSUER, "https://sts.googleapis.com"], what="provider")
        calls = ProviderCalls(http, self.vault)
        payloads = GrantPayloads(self.vault)
        randomness = PredictableRandomness(f"instance-{len(self.web.sent)}")
        parts = (self.clock, randomness)
        outbox = Outbox(self.deployment, self.store, self.log, self.clock)
        ending = (Escrow(self.vault, self.deployment.broker.escrow_key), RevokeUpstream(calls), outbox)
        refresher = RefreshGrant(self.deployment, self.store, payloads, calls, *ending, *parts)
        self.revoker = RevokeGrants(self.deployment, self.store, payloads, *ending, *parts)
        mover = MoveGrants(self.deployment, self.store, payloads, outbox, *parts)
        self.sweeper = SweepGrants(
            self.deployment, self.store, payloads, refresher, self.revoker, mover, outbox, self.clock
        )
        self.tokens = TrustedTokens(
            self.deployment.broker,
            self.store,
            calls,
            self.vault,
            OwnKeys(),
            outbox,
            *parts,
            timings=TIMINGS,
        )

    async def set_up(self) -> None:
        secrets = {"cab-provider-double": SECRET.encode(), "cab-assertion-double": self._private_key()}
        for name, payload in secrets.items():
            await self.vault.create(name)
            await self.vault.add(name, payload)
        self.vault.calls.clear()

    def _private_key(self) -> bytes:
        if self.key.algorithm == "ES256":
            return json.dumps(self.key.private_jwk).encode()
        members = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.private, as_dict=True)
        return json.dumps(members | {"kid": self.key.kid, "alg": "RS256"}).encode()

    async def _answer(self, sent: Sent) -> HttpAnswer:
        return await self.answer(sent)

    async def _from_double(self, sent: Sent) -> HttpAnswer:
        answer = self.double.http.post(
            "/oauth/token",
            content=sent.body,
            headers=dict(sent.headers) | {"Content-Type": "application/x-www-form-urlencoded"},
        )
        return HttpAnswer(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.content)

    def advance(self, span: timedelta) -> None:
        self.clock.advance(span)
        self.double.clock.advance(span.total_seconds())

    @property
    def sent(self) -> list[dict[str, str]]:
        return [dict(parse_qsl(sent.body.decode())) for sent in self.web.sent]

    def subject_token(
        self,
        of: Assertion,
        scopes: tuple[str, ...] = READ,
        *,
        key: Key = STS_KEY,
        typ: str | None = None,
        **changes: Any,
    ) -> str:
        """What exchange_token signs, but for the `changes`."""
        statement = statement_about(self.connection, self.provider, of, scopes, issuer=STS)
        assert statement is not None
        claims = subject_tokens.claims(statement, jti=f"s{next(_numbers)}", now=self.clock.now())
        said = {name: value for name, value in (claims | changes).items() if value is not None}
        return key.sign(said, {"typ": typ or statement.typ})

    async def token(
        self, of: Assertion | None = None, scopes: tuple[str, ...] = READ, *, subject_token: str | None = None
    ) -> AccessToken:
        of = of or assertion()
        if subject_token is None and self.connection.grant_kind.sts_vouches:
            subject_token = self.subject_token(of, scopes)
        return await self.tokens.access_token(
            of, self.connection, self.provider, scopes, provider_subject_token=subject_token
        )

    async def refused(self, *arguments: Any, **named: Any) -> BrokerError:
        with pytest.raises(BrokerError) as caught:
            await self.token(*arguments, **named)
        return caught.value

    async def grant(self, subject: str = "key-of-alice") -> Grant | None:
        stored = await self.store.read(grant_id("acme", subject, "double"))
        return None if stored is None else stored.grant

    def account_of(self, token: AccessToken) -> str:
        return str(self.double.book.accept(token.access_token).account)


def bearer_desk(**facts: Any) -> Desk:
    return Desk(GrantKind.JWT_BEARER, **facts)


def exchange_desk(**facts: Any) -> Desk:
    return Desk(GrantKind.TOKEN_EXCHANGE, **facts)


def id_jag_desk(**facts: Any) -> Desk:
    return Desk(GrantKind.ID_JAG, **facts)


def run(desk: Desk, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        await desk.set_up()
        await story()

    asyncio.run(whole())


ALL = pytest.mark.parametrize(
    "make", [bearer_desk, exchange_desk, id_jag_desk], ids=["jwt_bearer", "token_exchange", "id_jag"]
)
BY_OUR_STS = pytest.mark.parametrize("make", [exchange_desk, id_jag_desk], ids=["token_exchange", "id_jag"])
BY_MAP = pytest.mark.parametrize("make", [bearer_desk, id_jag_desk], ids=["jwt_bearer", "id_jag"])


# --- what is handed out ---


@ALL
def test_each_user_gets_a_token_of_the_own_account_with_the_scopes_of_the_action(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        of_alice, of_bob = await desk.token(), await desk.token(assertion("key-of-bob"))
        assert (desk.account_of(of_alice), desk.account_of(of_bob)) == ("double-1001", "double-1002")
        assert (of_alice.scopes, of_alice.narrowed) == (READ, True)
        assert of_alice.expires_at is not None
        assert of_alice.expires_at > desk.clock.now()

    run(desk, story)


@ALL
def test_tokens_are_kept_for_one_user_and_one_set_of_scopes_until_the_margin(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        first = await desk.token()
        assert (await desk.token()).access_token == first.access_token
        assert len(desk.sent) == 1
        others = [await desk.token(scopes=WRITE), await desk.token(assertion("key-of-bob"))]
        assert first.access_token not in {other.access_token for other in others}
        assert len(desk.sent) == 3
        assert first.expires_at is not None
        margin = timedelta(seconds=desk.provider.refresh_margin_s)
        desk.advance(first.expires_at - margin - desk.clock.now())
        assert (await desk.token()).access_token != first.access_token

    run(desk, story)


@ALL
def test_many_at_once_cost_one_request(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        tokens = await asyncio.gather(*(desk.token() for _ in range(8)))
        assert len({token.access_token for token in tokens}) == 1
        assert len(desk.sent) == 1
        assert sorted(token.outcome for token in tokens) == ["joined"] * 7 + ["success"]

    run(desk, story)


@pytest.mark.parametrize("key", [BEARER_KEY, BEARER_RSA_KEY], ids=["ES256", "RS256"])
def test_the_assertion_names_the_mapped_user_and_lives_three_minutes(key: Key) -> None:
    desk = bearer_desk(key=key)

    async def story() -> None:
        await desk.token()
        (form,) = desk.sent
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        assert form["scope"] == "read"
        claims = _claims(form["assertion"])
        assert len(claims.pop("jti")) > 16
        now = int(START.timestamp())
        assert claims == {
            "iss": "cab",
            "sub": "alice@acme.test",
            "aud": f"{ISSUER}/oauth/token",
            "iat": now,
            "exp": now + 180,
        }

    run(desk, story)


def test_scopes_go_into_the_assertion_where_the_provider_reads_them_there() -> None:
    desk = bearer_desk(assertion_scope="claim", assertion_audience="https://aud.test")

    async def story() -> None:
        desk.answer = _answers({"access_token": "t"})
        assert (await desk.token()).narrowed
        (form,) = desk.sent
        assert "scope" not in form
        assert (_claims(form["assertion"])["scope"], _claims(form["assertion"])["aud"]) == ("read", "https://aud.test")

    run(desk, story)


def test_without_a_client_secret_the_assertion_alone_is_sent() -> None:
    desk = bearer_desk()
    desk.connection = desk.connection.model_copy(update={"client_secret": None})

    async def story() -> None:
        desk.answer = _answers({"access_token": "t"})
        await desk.token()
        assert desk.sent[0].keys() == {"grant_type", "assertion", "scope"}
        assert "Authorization" not in desk.web.sent[0].headers

    run(desk, story)


def test_a_token_exchange_is_sent_as_google_wants_it() -> None:
    desk = Desk(GrantKind.TOKEN_EXCHANGE, subject_token_type="id_token", exchange_options={"userProject": "123"})
    desk.connection = desk.connection.model_copy(update={"client_secret": None})

    async def story() -> None:
        desk.answer = _answers({"access_token": "t"})
        subject_token = desk.subject_token(assertion())
        await desk.token(subject_token=subject_token)
        (form,) = desk.sent
        options = form.pop("options")
        assert options.startswith("%7B")  # still encoded inside the form
        assert json.loads(unquote(options)) == {"userProject": "123"}
        assert form == {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "audience": "//iam.test/pool",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token": subject_token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "scope": "read",
        }
        assert "Authorization" not in desk.web.sent[0].headers

    run(desk, story)


def test_the_preset_for_google_cloud_names_pool_provider_and_project_of_the_connection() -> None:
    (preset,) = (provider for provider in presets() if provider.id == "google-cloud-workforce")
    desk = Desk(GrantKind.TOKEN_EXCHANGE)
    desk.connection = desk.connection.model_copy(update={"client_secret": None, "client_id": None})
    values = {"pool": "people", "provider": "cab", "client_id": AT_PROVIDER, "user_project": "123"}
    desk.provider = preset.at(values)
    desk.web.hosts["https://sts.googleapis.com"] = _answers({"access_token": "t", "expires_in": 900})

    async def story() -> None:
        await desk.token(scopes=("https://www.googleapis.com/auth/bigquery.readonly",))
        assert desk.web.sent[0].url == "https://sts.googleapis.com/v1/token"
        (form,) = desk.sent
        assert form["audience"] == "//iam.googleapis.com/locations/global/workforcePools/people/providers/cab"
        assert form["scope"] == "https://www.googleapis.com/auth/bigquery.readonly"
        assert form["subject_token_type"] == "urn:ietf:params:oauth:token-type:id_token"
        assert json.loads(unquote(form["options"])) == {"userProject": "123"}

    run(desk, story)


def test_a_user_with_other_groups_gets_another_token() -> None:
    desk = exchange_desk()

    async def story() -> None:
        first = await desk.token()
        assert (await desk.token(assertion(groups=()))).access_token != first.access_token

    run(desk, story)


DIFFERENT: dict[str, dict[str, Any]] = {
    "another agent": {"may_act": "researcher"},
    "another chain": {"chain": ("researcher",)},
    "another login": {"auth_time": 1_799_999_000},
    "another kind of login": {"acr": "2"},
    "other factors": {"amr": ("pwd",)},
}


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT)
def test_what_an_id_jag_tells_of_agents_and_login_has_a_token_of_its_own(changes: dict[str, Any]) -> None:
    desk = id_jag_desk()

    async def story() -> None:
        first = await desk.token()
        assert (await desk.token(assertion(**changes))).access_token != first.access_token
        assert (await desk.token(assertion(txn="txn-2", groups=()))).access_token == first.access_token

    run(desk, story)


def test_an_id_jag_says_who_for_which_client_where_and_how_far_and_no_more() -> None:
    desk = id_jag_desk()

    async def story() -> None:
        known: dict[str, Any] = {"chain": ("scribe",), "auth_time": 1_799_999_000, "acr": "2", "amr": ("pwd", "otp")}
        await desk.token(assertion(**known), scopes=("read", "write"))
        (form,) = desk.sent
        assert form.keys() == {"grant_type", "assertion", "scope"}
        assert (form["grant_type"], form["scope"]) == ("urn:ietf:params:oauth:grant-type:jwt-bearer", "read write")
        header = jwt.get_unverified_header(form["assertion"])
        assert (header["typ"], header["alg"], header["kid"]) == ("oauth-id-jag+jwt", "ES256", "sts")
        claims = _claims(form["assertion"])
        assert claims.pop("jti")
        now = int(START.timestamp())
        assert claims == {
            "iss": STS,
            "sub": "alice@acme.test",
            "aud": ISSUER,
            "client_id": "cab",
            "resource": ISSUER,
            "scope": "read write",
            "act": {
                "sub": "assistant",
                "iss": STS,
                "act": {"sub": "scribe", "iss": STS},
                "sub_profile": "ai_agent",
            },
            "auth_time": 1_799_999_000,
            "acr": "2",
            "amr": ["pwd", "otp"],
            "txn": "txn-1",
            "iat": now,
            "exp": now + 300,
        }
        (voucher,) = [entry for entry in desk.double.book.ledger() if entry["event"] == "vouched"]
        assert (voucher["kind"], voucher["claims"]["client_id"]) == ("id_jag", "cab")
        assert "Authorization" in desk.web.sent[0].headers  # the client that it names is the client that asks

    run(desk, story)


def test_where_no_client_authenticates_the_request_still_says_who_redeems_the_id_jag() -> None:
    desk = id_jag_desk(token_endpoint_auth_method="none")
    desk.connection = desk.connection.model_copy(update={"client_secret": None})

    async def story() -> None:
        desk.answer = _answers({"access_token": "t"})
        await desk.token()
        assert desk.sent[0]["client_id"] == "cab"
        assert "Authorization" not in desk.web.sent[0].headers

    run(desk, story)


@ALL
def test_a_refresh_token_that_comes_along_is_kept_nowhere(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        desk.answer = _answers({"access_token": "t", "refresh_token": "never-kept"})
        token = await desk.token()
        assert (token.access_token, token.scopes) == ("t", READ)
        grant = await desk.grant()
        assert grant is not None
        assert not grant.keeps_tokens
        assert desk.vault.calls.keys() <= {"access"}
        assert "never-kept" not in repr(vars(desk.tokens)) + grant.model_dump_json()

    run(desk, story)


# --- the grant's document ---


@ALL
def test_the_first_use_makes_a_grant_without_any_secret_and_says_so_in_the_audit(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        token = await desk.token()
        await desk.token(scopes=WRITE)
        grant = await desk.grant()
        assert grant is not None
        assert (grant.status, grant.keeps_tokens, grant.grant_id) == (GrantStatus.ACTIVE, False, token.grant_id)
        assert (grant.outbox, grant.due_at) == ([], None)  # nothing is left to do, not even where grants are kept alive
        assert desk.vault.calls.keys() <= {"access"}
        (event,) = desk.log.events
        assert (event.event_type.value, event.txn) == ("grant.connected", "txn-1")
        assert event.grant is not None
        assert event.grant.cause == "approved by the organisation"

    run(desk, story)


@ALL
def test_revoked_means_no_token_at_once_and_nothing_is_looked_for_in_the_vault(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        token = await desk.token()
        desk.vault.calls.clear()
        revoked = await desk.revoker.one(token.grant_id, cause="user", txn="t")
        assert revoked.upstream is False
        assert (await desk.refused()).reason is Reason.GRANT_REVOKED
        assert len(desk.sent) == 1
        for _ in range(3):
            desk.advance(timedelta(days=1))
            for name in await desk.sweeper.due(limit=10):
                await desk.sweeper.visit(name)
        assert await desk.sweeper.due(limit=10) == []
        assert desk.vault.calls == {}
        desk.start()
        assert (await desk.refused()).reason is Reason.GRANT_REVOKED

    run(desk, story)


@ALL
def test_the_sweeper_has_nothing_to_do_for_a_grant_without_tokens(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        name = (await desk.token()).grant_id
        desk.vault.calls.clear()
        stored = await desk.store.read(name)
        assert stored is not None
        await desk.store.replace(stored, stored.grant.model_copy(update={"due_at": desk.clock.now()}))
        desk.advance(timedelta(days=1))
        await desk.sweeper.visit(name)
        grant = await desk.grant()
        assert grant is not None
        assert (grant.status, grant.due_at) == (GrantStatus.ACTIVE, None)
        assert desk.vault.calls == {}

    run(desk, story)


@ALL
def test_a_token_that_came_while_the_grant_was_revoked_stays_inside(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        async def revoked_meanwhile(sent: Sent) -> HttpAnswer:
            await desk.revoker.one(grant_id("acme", "key-of-alice", "double"), cause="user", txn="t")
            return await desk._from_double(sent)

        desk.answer = revoked_meanwhile
        assert (await desk.refused()).reason is Reason.GRANT_REVOKED

    run(desk, story)


# --- who is refused ---


@BY_MAP
def test_without_a_map_entry_a_user_is_nobody_and_nothing_is_sent(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        refusal = await desk.refused(assertion("key-of-carol"), subject_token="")
        assert (refusal.reason, refusal.remedy.interaction_uri) == (Reason.GRANT_MISSING, None)
        assert (desk.sent, await desk.grant("key-of-carol")) == ([], None)

    run(desk, story)


@ALL
def test_a_user_the_provider_does_not_accept_must_be_allowed_there(make: Callable[[], Desk]) -> None:
    desk = make()
    desk.connection = desk.connection.model_copy(update={"user_map": {"key-of-alice": "gone@acme.test"}})

    async def story() -> None:
        refusal = await desk.refused()
        assert (refusal.reason, refusal.remedy.interaction_uri) == (Reason.GRANT_NEEDS_REAUTH, None)

    run(desk, story)


FOREIGN: dict[str, dict[str, Any]] = {
    "of another user": {"sub": "key-of-bob"},
    "of another exchange": {"txn": "txn-2"},
    "with other groups": {"groups": ["staff", "admins"]},
    "with an address": {"email": "boss@acme.test"},
    "for another system": {"aud": "another"},
    "for the broker itself": {"aud": STS},
    "of another issuer": {"iss": "https://cab.test/edge"},
    "of another key": {"key": ec_key("another")},
    "of another kind": {"typ": "cab-assertion+jwt"},
    "over": {"exp": int(START.timestamp()) - 31},
    "too long": {"exp": int(START.timestamp()) + 301},
}
FOREIGN_ID_JAGS: dict[str, dict[str, Any]] = {
    "no ID-JAG": {"typ": "JWT"},
    "for another client": {"client_id": "other"},
    "for another resource": {"resource": "https://elsewhere.test"},
    "for more scopes": {"scope": "read write"},
    "for any scope": {"scope": None},
    "of another agent": {"act": {"sub": "researcher", "iss": STS}},
    "of another login": {"auth_time": int(START.timestamp())},
}


async def _refuses(desk: Desk, changes: dict[str, Any]) -> None:
    refusal = await desk.refused(subject_token=desk.subject_token(assertion(), **changes))
    assert refusal.reason is Reason.SUBJECT_TOKEN_INVALID
    assert (desk.sent, await desk.grant()) == ([], None)


@BY_OUR_STS
@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_a_token_for_the_provider_must_be_of_this_user_and_exchange(
    make: Callable[[], Desk], changes: dict[str, Any]
) -> None:
    desk = make()
    run(desk, lambda: _refuses(desk, changes))


@pytest.mark.parametrize("changes", FOREIGN_ID_JAGS.values(), ids=FOREIGN_ID_JAGS)
def test_an_id_jag_must_be_of_this_client_and_for_these_scopes(changes: dict[str, Any]) -> None:
    desk = id_jag_desk()
    run(desk, lambda: _refuses(desk, changes))


@BY_OUR_STS
@pytest.mark.parametrize("subject_token", ["", "x", "a.b.c"])
def test_without_the_word_of_our_sts_a_user_is_refused_even_when_a_token_is_kept(
    make: Callable[[], Desk], subject_token: str
) -> None:
    desk = make()

    async def story() -> None:
        await desk.token()
        assert (await desk.refused(subject_token=subject_token)).reason is Reason.SUBJECT_TOKEN_INVALID

    run(desk, story)


# --- what the provider says ---


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def _answers(
    document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Callable[[Sent], Awaitable[HttpAnswer]]:
    async def answer(_: Sent) -> HttpAnswer:
        return json_answer(document, status, headers)

    return answer


@ALL
@pytest.mark.parametrize("scope", ["read write", "write", "write read admin"])
def test_other_scopes_than_asked_for_are_refused(make: Callable[[], Desk], scope: str) -> None:
    desk = make()

    async def story() -> None:
        desk.answer = _answers({"access_token": "wide", "scope": scope})
        assert (await desk.refused()).reason is Reason.SCOPE_NOT_GRANTABLE
        desk.answer = desk._from_double
        assert (await desk.token()).scopes == READ  # the wide one was not kept

    run(desk, story)


@ALL
def test_wider_tokens_are_handed_out_where_the_connection_accepts_them(make: Callable[..., Desk]) -> None:
    desk = make(allow_unnarrowed=True)

    async def story() -> None:
        desk.answer = _answers({"access_token": "wide", "scope": "read write"})
        token = await desk.token()
        assert (token.scopes, token.narrowed) == (("read", "write"), False)

    run(desk, story)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_provider_that_takes_no_scopes_and_names_none_grants_an_unknown_width(allowed: bool) -> None:
    desk = bearer_desk(assertion_scope="none", allow_unnarrowed=allowed)

    async def story() -> None:
        desk.answer = _answers({"access_token": "t"})
        if allowed:
            token = await desk.token()
            assert (token.scopes, token.narrowed) == (READ, False)
        else:
            assert (await desk.refused()).reason is Reason.SCOPE_NOT_GRANTABLE
        assert "scope" not in desk.sent[0]

    run(desk, story)


ANSWERS: dict[str, tuple[dict[str, Any], int, Reason]] = {
    "refused user": ({"error": "invalid_grant"}, 400, Reason.GRANT_NEEDS_REAUTH),
    "refused scope": ({"error": "invalid_scope"}, 400, Reason.SCOPE_NOT_GRANTABLE),
    "our client": ({"error": "invalid_client"}, 401, Reason.PROVIDER_UNAVAILABLE),
    "broken": ({"error": "invalid_grant"}, 503, Reason.PROVIDER_UNAVAILABLE),
    "busy": ({"error": "slow_down"}, 429, Reason.PROVIDER_UNAVAILABLE),
    "token in an error": ({"access_token": "t"}, 500, Reason.PROVIDER_UNAVAILABLE),
    "no token": ({}, 200, Reason.PROVIDER_UNAVAILABLE),
    "another kind of token": (
        {"access_token": "t", "issued_token_type": "urn:ietf:params:oauth:token-type:jwt"},
        200,
        Reason.PROVIDER_UNAVAILABLE,
    ),
}


@ALL
@pytest.mark.parametrize(("document", "status", "reason"), ANSWERS.values(), ids=ANSWERS)
def test_every_refusal_of_the_provider_has_its_reason(
    make: Callable[[], Desk], document: dict[str, Any], status: int, reason: Reason
) -> None:
    desk = make()

    async def story() -> None:
        desk.answer = _answers(document, status)
        refusal = await desk.refused()
        assert refusal.reason is reason
        assert (refusal.remedy.retry_after_s is not None) == (reason is Reason.PROVIDER_UNAVAILABLE)

    run(desk, story)


@pytest.mark.parametrize(("said", "told"), [("30", 30), ("86400", 60), ("0", 1), ("soon", 2), ("", 2)])
def test_a_busy_provider_is_left_alone_for_as_long_as_it_asks(said: str, told: int) -> None:
    desk = bearer_desk()

    async def story() -> None:
        desk.answer = _answers({}, 429, {"retry-after": said})
        assert (await desk.refused()).remedy.retry_after_s == told
        again = await desk.refused()
        assert (again.reason, len(desk.sent)) == (Reason.PROVIDER_UNAVAILABLE, 1)
        desk.answer = desk._from_double
        desk.advance(timedelta(seconds=told))
        await desk.token()

    run(desk, story)


@ALL
def test_a_provider_that_hangs_or_is_down_is_unavailable_in_time(make: Callable[[], Desk]) -> None:
    desk = make()

    async def story() -> None:
        async def hang(_: Sent) -> HttpAnswer:
            await asyncio.Event().wait()
            raise AssertionError

        desk.answer = hang
        assert (await desk.refused()).reason is Reason.PROVIDER_UNAVAILABLE
        desk.advance(timedelta(seconds=3))
        desk.web.down.add(ISSUER)
        assert (await desk.refused()).reason is Reason.PROVIDER_UNAVAILABLE

    run(desk, story)


def test_a_caller_that_leaves_does_not_stop_the_others() -> None:
    desk = bearer_desk()

    async def story() -> None:
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def slow(sent: Sent) -> HttpAnswer:
            arrived.set()
            await go_on.wait()
            return await desk._from_double(sent)

        desk.answer = slow
        leaving = asyncio.create_task(desk.token())
        await arrived.wait()
        staying = asyncio.create_task(desk.token())
        leaving.cancel()
        go_on.set()
        assert (await staying).scopes == READ
        assert len(desk.sent) == 1

    run(desk, story)


@pytest.mark.parametrize("raw", [b"{}", b"no key", b'{"kty":"oct","k":"c2VjcmV0","kid":"k"}'])
def test_a_key_that_cannot_sign_is_an_outage_of_ours(raw: bytes) -> None:
    desk = bearer_desk()
    desk._private_key = lambda: raw  # type: ignore[method-assign]

    async def story() -> None:
        with pytest.raises(Unavailable, match="secrets"):
            await desk.token()
        assert desk.sent == []

    run(desk, story)
