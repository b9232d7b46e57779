"""Everything around a grant, in this process: stores, a provider double with its ledger, and refresh_grants as often as wanted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

from tests.grants.double_http import DoubleHttp
from tests.grants.history import History, RecordingDocuments
from tests.grants.virtual_time import AT_THE_END, START, VirtualClock

from cab.domain.configured.actions import Action
from cab.domain.configured.connections import Connection, Provider, Revocation, Rotation
from cab.domain.configured.deployment import Broker, Deployment, Tenant
from cab.domain.grant_transitions import reconnected
from cab.domain.grants import PRODUCTION_TIMINGS, Grant, RefreshOutcome, Storage, Timings, grant_id
from cab.ports import AccessToken, Clock, Documents, SecretVault, Unavailable
from cab.stores.grant_payloads import GrantPayloads, new_payload, secret_id, sha256_or_none
from cab.stores.grants import Grants
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.grants.move import MoveGrants
from cab.use_cases.grants.refresh.attempt import Step, Wanted, no_step
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET, Escrow
from cab.use_cases.grants.revoke import RevokeGrants
from cab.use_cases.grants.sweep import SweepGrants
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.revoke import RevokeUpstream
from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider import PROFILES, ProviderProfile, create_provider_app, s256
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.randomness import PredictableRandomness
from cab_dev.fakes.secrets import InMemoryVault

ISSUER = "http://127.0.0.1:9000"
CLIENT = RegisteredClient(client_id="cab", redirect_uris=("http://127.0.0.1:8080/connect/callback/double",))
READ = ("read",)
WRITE = ("write",)
STRICT, FAMILY, LEEWAY, STATIC = "acme-crm", "salesforce-like", "acme-tracker", "google-like"
EVERY_CLASS = (STATIC, LEEWAY, STRICT, FAMILY)


def provider_of(profile: ProviderProfile, *, issuer_of_double: str = ISSUER, **changes: Any) -> Provider:
    """The profile of a double as the broker's configuration would describe it."""
    rotation: dict[str, Any] = {
        "class": profile.refresh_class.value.removesuffix("_family"),
        "leeway_s": profile.leeway_s,
        "reuse_revokes_family": profile.refresh_class.value.endswith("_family"),
        "old_access_token": {
            "lives": "lives_on",
            "dies_at_once": "dies_at_once",
            "dies_after_leeway": "dies_after_leeway",
        }[profile.old_access_token.value],
    }
    radius = {"token": "token", "grant": "grant", "account": "user", "none": "unknown"}[profile.revocation.value]
    facts: dict[str, Any] = {
        "id": profile.name,
        "title": profile.name,
        "authorization_endpoint": f"{issuer_of_double}/oauth/authorize",
        "token_endpoint": f"{issuer_of_double}/oauth/token",
        "userinfo_endpoint": f"{issuer_of_double}/oauth/userinfo",
        "token_endpoint_auth_method": "none",
        "base_scopes": (profile.offline_scope,) if profile.offline_scope else (),
        "rotation": Rotation.model_validate(rotation),
        "narrowing": "scope_at_refresh" if profile.narrowing.value == "honoured" else "none",
        "scope_separator": profile.scope_separator,
        "revocation": Revocation(
            endpoint=None if profile.revocation.value == "none" else f"{issuer_of_double}/oauth/revoke",
            blast_radius=radius,
        ),
        "invalid_grant_errors": tuple(dict.fromkeys((profile.invalid_grant_error, "invalid_grant"))),
        "invalid_grant_statuses": tuple(dict.fromkeys((400, max(profile.invalid_grant_status, 400)))),
        "error_in_200": profile.invalid_grant_status == 200,
    }
    return Provider.model_validate(facts | changes)


def deployment_of(provider: Provider, **connection_changes: Any) -> Deployment:
    actions = tuple(
        Action(id=f"double.thing.{name}", title=name, effect=effect, scopes=(name,), identifier="thing/{id}")
        for name, effect in (("read", "read"), ("write", "write"))
    )
    facts: dict[str, Any] = {
        "id": "double",
        "title": "Double",
        "provider": provider.id,
        "resource": ISSUER,
        "tenants": ("acme", "globex"),
        "client_id": "cab",
        "allow_unnarrowed": provider.narrowing == "none",
        "actions": actions,
    }
    connection = Connection.model_validate(facts | connection_changes)
    tenants = tuple(Tenant(id=name, title=name) for name in ("acme", "globex"))
    return Deployment(
        broker=Broker(origin="http://127.0.0.1:8080", tenants=tenants, allow_loopback_http=True),
        identity_providers=(),
        front_ends=(),
        agents=(),
        connections=(connection,),
        provider_by_id={provider.id: provider},
        policies=(),
        policy_version="test",
    )


@dataclass
class Worker:
    """One instance of refresh_grants: own payload cache, own clock, shared stores."""

    refresher: RefreshGrant
    revoker: RevokeGrants
    sweeper: SweepGrants
    mover: MoveGrants
    connection: Connection
    provider: Provider
    clock: Clock
    history: History
    outcomes: Counter[RefreshOutcome] = field(default_factory=Counter)

    async def token(self, name: str, scopes: tuple[str, ...] = READ) -> AccessToken:
        token = await self.refresher.access_token(name, Wanted(scopes, self.connection, self.provider))
        self.history.served.append((VirtualClock().now(), name, token.outcome))
        return token

    async def revoke(self, name: str) -> bool | None:
        upstream = (await self.revoker.one(name, cause="user", txn="txn")).upstream
        self.history.revoked.setdefault(name, VirtualClock().now())
        return upstream

    async def sweep(self) -> int:
        """One round of the sweeper. How many grants were due. What fails is visited again, as Pub/Sub would redeliver it."""
        try:
            due = await self.sweeper.due(limit=200)
        except Unavailable:
            return 0
        for name in due:
            with suppress(Unavailable):
                await self.sweeper.visit(name)
        return len(due)


class GrantWorld:
    """Must be made inside the running loop, whose time it takes."""

    def __init__(
        self,
        profile: str | ProviderProfile = STRICT,
        *,
        delay_s: float = 0.01,
        timings: Timings = PRODUCTION_TIMINGS,
        client: RegisteredClient = CLIENT,
        connection_changes: Mapping[str, Any] | None = None,
        **provider_changes: Any,
    ) -> None:
        self.profile = PROFILES[profile] if isinstance(profile, str) else profile
        self.provider = provider_of(self.profile, **provider_changes)
        self.deployment = deployment_of(self.provider, **(connection_changes or {}))
        self.connection = self.deployment.connections[0]
        self.timings = timings
        self.clock = VirtualClock()
        self.history = History()
        AT_THE_END.append(self.history.check)
        self.documents = RecordingDocuments(self.history, delay_s=delay_s, clock=self.clock)
        self.vault = InMemoryVault(delay_s=delay_s)
        self.grant_vault: SecretVault = self.vault  # where payloads go; client secrets and keys stay in `vault`
        self.storage: Storage = "secret_per_grant"
        self.before: tuple[Storage, SecretVault] | None = None  # while grants move
        self.log = InMemoryAuditLog(delay_s=delay_s)
        self.store = Grants(self.documents)
        self.randomness = PredictableRandomness()
        loop = asyncio.get_running_loop()
        app, self.double = create_provider_app(
            self.profile,
            issuer=ISSUER,
            clients=[client],
            clock=MovableClock(lambda: START.timestamp() + loop.time()),
        )
        self.http = DoubleHttp(app, delay_s=delay_s)
        self.book = self.double.book
        self._workers = 0

    async def open(self) -> GrantWorld:
        await self.vault.create(ESCROW_SECRET)
        await self.vault.add(ESCROW_SECRET, b"k" * 32)
        return self

    def worker(
        self,
        *,
        step: Step = no_step,
        clock: Clock | None = None,
        documents: Documents | None = None,
        vault: SecretVault | None = None,
        http: Any = None,
        log: Any = None,
    ) -> Worker:
        self._workers += 1
        clock = clock or self.clock
        store = Grants(documents or self.documents)
        vault = vault or self.grant_vault
        randomness = PredictableRandomness(f"worker {self._workers}")
        payloads = GrantPayloads(vault, storage=self.storage, before=self.before)
        outcomes: Counter[RefreshOutcome] = Counter()
        calls = ProviderCalls(http or self.http, self.vault)
        escrow, revoke_upstream = Escrow(self.vault, self.deployment.broker.escrow_key), RevokeUpstream(calls)
        outbox = Outbox(self.deployment, store, log or self.log, clock, timings=self.timings)
        refresher = RefreshGrant(
            self.deployment,
            store,
            payloads,
            calls,
            escrow,
            revoke_upstream,
            outbox,
            clock,
            randomness,
            timings=self.timings,
            step=step,
            observe=lambda outcome: outcomes.update([outcome]),
        )
        revoker = RevokeGrants(
            self.deployment, store, payloads, escrow, revoke_upstream, outbox, clock, randomness, timings=self.timings
        )
        mover = MoveGrants(self.deployment, store, payloads, outbox, clock, randomness, timings=self.timings, step=step)
        sweeper = SweepGrants(
            self.deployment, store, payloads, refresher, revoker, mover, outbox, clock, timings=self.timings
        )
        return Worker(refresher, revoker, sweeper, mover, self.connection, self.provider, clock, self.history, outcomes)

    # --- grants ---

    async def connect(self, user: str = "alice", *, expired: bool = True, tenant: str = "acme") -> str:
        """A grant as the connect flow leaves it; its access token already old unless told otherwise."""
        name = grant_id(tenant, user, "double")
        scopes = tuple(dict.fromkeys((*self.connection.consent_scopes, *self.provider.base_scopes)))
        now = self.clock.now()
        draft = Grant(
            grant_id=name,
            tenant=tenant,
            subject=user,
            connection="double",
            provider=self.provider.id,
            provider_class=self.provider.rotation.rotation_class,
            leeway_s=self.provider.rotation.leeway_s,
            scopes=list(scopes),
            connected_at=now,
            refreshed_at=now,
        )
        version, _ = await self._consent(draft, expired=expired)
        stored = await self.store.create(draft.model_copy(update={"secret_version": version}))
        assert stored is not None
        return name

    async def reconnect(self, name: str) -> None:
        """The user consents anew."""
        stored = await self.store.read(name)
        assert stored is not None
        version, expires_in = await self._consent(stored.grant, expired=False)
        done = await self.store.replace(
            stored,
            reconnected(
                stored.grant,
                version=version,
                scopes=stored.grant.scopes,
                upstream_account=None,
                access_expires_at=self.clock.now() + timedelta(seconds=expires_in),
                now=self.clock.now(),
                event={},
            ).model_copy(update={"outbox": stored.grant.outbox}),
        )
        assert done is not None

    async def _consent(self, draft: Grant, *, expired: bool) -> tuple[int, int]:
        """Tokens of a new grant at the provider, stored. The version, and how many seconds the access token lives."""
        now = self.clock.now()
        code = self.book.issue_code(
            client_id="cab",
            account="double-1001",
            redirect_uri=CLIENT.redirect_uris[0],
            scopes=draft.scopes,
            challenge=s256("v" * 43),
        )
        tokens = self.book.redeem_code(code, client_id="cab", redirect_uri=CLIENT.redirect_uris[0], verifier="v" * 43)
        answer = {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "expires_in": 1 if expired else tokens.expires_in,
            "scope": self.profile.scope_separator.join(tokens.scope),
        }
        payloads = GrantPayloads(self.grant_vault, storage=self.storage, before=self.before)
        await payloads.create(draft)
        payload = new_payload(
            draft.model_copy(update={"attempt_id": None}),
            body=json.dumps(answer).encode(),
            status=200,
            received_at=now - timedelta(seconds=2) if expired else now,
            requested_scopes=tuple(draft.scopes),
            base=None,
            provider=self.provider,
        )
        return await payloads.add(draft, payload), tokens.expires_in

    async def grant(self, name: str) -> Grant:
        stored = await self.store.read(name)
        assert stored is not None
        return stored.grant

    async def change(self, name: str, **fields: Any) -> None:
        """Write into the document from outside, as an operator, an attacker or a restored backup would."""
        self.history.tampered.add(name)
        stored = await self.store.read(name)
        assert stored is not None
        assert await self.store.replace(stored, stored.grant.model_copy(update=fields)) is not None

    async def expire(self, name: str) -> None:
        """Let the committed access token grow too old to be handed out."""
        lives = timedelta(seconds=self.profile.access_token_life_s)
        await self.sleep(lives.total_seconds())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def drain(self, worker: Worker, *, for_s: float = 300, every_s: float = 10) -> None:
        """Let the sweeper run as the scheduler runs it."""
        until = self.clock.now() + timedelta(seconds=for_s)
        while self.clock.now() < until:
            await worker.sweep()
            await asyncio.sleep(every_s)

    # --- the oracle ---

    def refreshes(self) -> int:
        """How often the provider really refreshed."""
        return sum(entry["event"] == "refreshed" for entry in self.book.ledger())

    def usable(self) -> set[str]:
        """Digests of the refresh tokens that would work now."""
        return {token for grant in self.book.grants() for token in grant["usable_refresh_tokens"]}

    async def stored_refresh_token(self, name: str) -> str | None:
        """Digest of the refresh token that the document points to."""
        grant = await self.grant(name)
        return await self.refresh_token_of_version(name, grant.secret_version)

    async def refresh_token_of_version(self, name: str, version: int) -> str | None:
        raw = json.loads(self.vault._secrets[secret_id(name)][version - 1] or b"{}")
        if not raw:
            return None
        body = base64.b64decode(raw["response"])
        try:
            answer = json.loads(body)
        except ValueError:
            answer = dict(parse_qsl(body.decode("latin-1")))
        return sha256_or_none(answer.get("refresh_token") or raw["carried_refresh_token"])

    def versions(self, name: str) -> int:
        return len(self.vault._secrets[secret_id(name)])

    def fault(self, **members: Any) -> None:
        self.double.faults.set_from_json(members)

    def events(self, event_type: str) -> list[Any]:
        """Audit events of one type, each id once."""
        return list({e.event_id: e for e in self.log.events if e.event_type.value == event_type}.values())
