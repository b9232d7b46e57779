"""Two weeks of an organisation, lived through the broker itself: what an analyst's answers are held against.

Two tenants, thirty users, six agents, two policy versions, an outage of a provider, an injection, a stolen key, calls of
which some were never answered. The functions are those that are deployed, in this process (`World`): people log in and agree
on the pages, agents ask over HTTP, events go over the real audit log to `ingest_audit`, whose rows these are. Only the
clock and the dice are ours. `Truth` is what people, agents and platforms saw from outside: no event was read for it.

The suite lives through some hundred decisions; CAB_DESK_DECISIONS=5000 (`make desk`) is the full size, with the same facts planted.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from tests.support.asgi import Answer
from tests.support.functions import Cloud
from tests.support.jose import key_set
from tests.support.visits import Visits
from tests.support.web import Documents, Sent, json_answer
from tests.support.world import (
    ACCOUNTS,
    CRM,
    EXCHANGE_TOKEN,
    GLOBEX_IDP,
    GLOBEX_KEY,
    IDP,
    IDP_KEY,
    INGEST_AUDIT,
    ORIGIN,
    SECRET_OF_READER,
    WAREHOUSE,
    GoogleIdentity,
    World,
    client_key,
    deployment,
    intent,
    task,
    unique,
)

from cab.adapters.google_cloud.pubsub.audit_log import PubSubAuditLog
from cab.adapters.google_cloud.pubsub.publisher import Message
from cab.domain.identifiers import subject_key
from cab.ports import HttpAnswer, SendFailed
from cab.protocol.authorization_details import details_hash

CONFIGURATION = Path(__file__).with_name(
    "two_weeks"
)  # of the second week; the first has no candidates and one rule less
DAYS = 14
DECISIONS = int(os.environ.get("CAB_DESK_DECISIONS", "300"))
USERS = {"acme": [f"acme-user-{n:02}" for n in range(20)], "globex": [f"globex-user-{n:02}" for n in range(10)]}
AGENTS = {"acme": ["sales", "support", "scout", "ops"], "globex": ["buyer", "clerk"]}
TEAMS = {
    "sales": "revenue",
    "support": "service",
    "scout": "revenue",
    "ops": "platform",
    "buyer": "supply",
    "clerk": "supply",
}
OBJECTS = {
    "crm.deal.read": "deal",
    "crm.deal.update": "deal",
    "crm.deal.delete": "deal",
    "tracker.task.create": "task",
    "warehouse.query.run": "query",
}
NEVER_USED = "warehouse.table.drop"  # on every agent's list, asked for by none
OUTAGE_DAY, INJECTION_DAY, THEFT_DAY, CHANGE_DAY = 4, 6, 9, 7
STOLEN = "scout"
THEFT_NETWORK = "203.0.113.0/24"
DECIDED_BY = {
    "policy_denied": "policy",
    "confirmation_required": "policy",
    "rate_limited": "limit",
    "provider_unavailable": "outage",
    "intent_outside_task": "task",
    "grant_needs_reauth": "grant",
}
# As a caller is told it, and as `calls` shows it.
CALLS: dict[str, HttpAnswer | SendFailed] = {
    "done": json_answer({"rows": 1}),
    "rejected": json_answer({"error": "no"}, 422),
    "unknown": SendFailed("platform", may_have_arrived=True),
}


@dataclass(frozen=True)
class HandOut:
    """A token as its agent knows it."""

    txn: str
    action: str
    identifier: str
    agent: str
    intent_hash: str
    token: str


@dataclass
class Truth:
    issued: Counter[tuple[str, str, str | None]] = field(default_factory=Counter)  # tenant, agent, action
    refused_by: Counter[tuple[str, str]] = field(default_factory=Counter)  # tenant, decided by
    mismatches: Counter[str] = field(default_factory=Counter)  # by txn
    outage_refusals: int = 0
    calls: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    unreported: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # txn, action, identifier
    answers: Counter[str] = field(default_factory=Counter)
    stolen_users: set[str] = field(default_factory=set)  # whom the key of STOLEN could reach on THEFT_DAY
    sessions: dict[tuple[str, int], set[str]] = field(default_factory=dict)  # user and day to txns
    flips: int = 0
    tokens: dict[tuple[int, str], set[str]] = field(default_factory=dict)  # day, agent
    decisions: Counter[tuple[int, str]] = field(default_factory=Counter)
    call_tokens: int = 0
    connected: int = 0
    injection_txn: str = ""
    injection_seconds: float = 0.0


class Pushing:
    """Pub/Sub that has pushed each message to `ingest_audit` before it acknowledges."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._identity = ("", datetime.min.replace(tzinfo=UTC))
        self._count = 0

    async def publish(self, topic: str, messages: list[Message]) -> None:
        for message in messages:
            self._count += 1
            content = {
                "data": base64.b64encode(message.data).decode(),
                "attributes": dict(message.attributes),
                "messageId": f"m-{self._count}",
                "publishTime": self._world.clock.now().isoformat(),
            }
            body = {"message": content, "subscription": self._world.environment["CAB_AUDIT_SUBSCRIPTION"]}
            answer = await self._world.request(
                "POST",
                "/",
                function="ingest_audit",
                headers=[("Authorization", f"Bearer {self._token()}")],
                body=json.dumps(body).encode(),
            )
            assert answer.status == 204, answer.status

    def _token(self) -> str:
        token, until = self._identity
        if self._world.clock.now() >= until:
            token = self._world.google_token(INGEST_AUDIT, email=f"pubsub-push@{ACCOUNTS}")
            self._identity = token, self._world.clock.now() + timedelta(minutes=50)
        return token

    async def close(self) -> None:
        """Nothing to let go of."""


class Processes(Cloud):
    """A cloud whose functions publish over the audit log that is deployed: a chain for each process."""

    pubsub: Pushing

    def audit_log(self, *where: Any, service: str, revision: str, **parts: Any) -> PubSubAuditLog:
        with patch("cab.adapters.google_cloud.pubsub.audit_log.PubSubPublisher", lambda *_, **__: self.pubsub):
            return PubSubAuditLog(*where, service=service, revision=revision, **parts)


async def end_all_processes() -> None:
    """In order, as when their server's loop is shut down."""
    closing = [task for task in asyncio.all_tasks() if "_close_at_the_end" in repr(task.get_coro())]
    for each in closing:
        each.cancel()
    await asyncio.gather(*closing, return_exceptions=True)


class CrmProvider:
    """The CRM's token endpoint: a line of refresh tokens for each user, until one is dead."""

    def __init__(self) -> None:
        self.codes: dict[str, str] = {}
        self.dead: set[str] = set()
        self._number = 0

    async def __call__(self, sent: Sent) -> HttpAnswer:
        form = {name: values[0] for name, values in parse_qs(sent.body.decode()).items()}
        is_code = form["grant_type"] == "authorization_code"
        user = self.codes.pop(form["code"]) if is_code else form["refresh_token"].partition(".")[0]
        if user in self.dead and not is_code:
            return json_answer({"error": "invalid_grant"}, 400)
        self._number += 1
        answer = {"access_token": f"crm-access-{self._number}", "token_type": "Bearer", "expires_in": 3600}
        scope = {"scope": form["scope"]} if "scope" in form else {}
        return json_answer(answer | scope | {"refresh_token": f"{user}.{self._number}"})


class Logins:
    """The two identity providers, as far as the broker's own pages log people in there."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.codes: dict[str, tuple[str, str]] = {}  # user and nonce
        for issuer, keys in ((IDP, "/jwks"), (GLOBEX_IDP, "/pinned-keys")):
            discovery = {
                "issuer": issuer,
                "jwks_uri": f"{issuer}{keys}",
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
            }
            key = IDP_KEY if issuer == IDP else GLOBEX_KEY
            documents = Documents({"/.well-known/openid-configuration": discovery, keys: key_set(key)})
            world.web.hosts[issuer] = self._host(issuer, documents)

    def _host(self, issuer: str, documents: Documents) -> Any:
        async def answer(sent: Sent) -> HttpAnswer:
            if sent.path != "/token":
                return await documents(sent)
            user, nonce = self.codes.pop(parse_qs(sent.body.decode())["code"][0])
            now = self._world.now
            token = self.id_token(issuer, user, aud="cab", nonce=nonce, auth_time=now, iat=now)
            return json_answer({"access_token": "at", "token_type": "Bearer", "id_token": token})

        return answer

    def id_token(self, issuer: str, user: str, **claims: Any) -> str:
        key = IDP_KEY if issuer == IDP else GLOBEX_KEY
        return self._world.id_token(user, key=key, iss=issuer, **claims)


class Browser:
    """A fresh browser of a user, at the pages, the identity provider and the CRM; both agree at once."""

    def __init__(self, organisation: Organisation, tenant: str, user: str) -> None:
        self._organisation = organisation
        self._tenant = tenant
        self._user = user
        self._visits = Visits(organisation.world)

    async def open(self, url: str, form: Mapping[str, str] | None = None) -> str:
        """The page that a link or a form leads to in the end."""
        for _ in range(10):
            parts = urlsplit(url)
            if parts.netloc and f"{parts.scheme}://{parts.netloc}" != ORIGIN:
                url, form = self._elsewhere(parts.netloc in CRM, dict(parse_qsl(parts.query))), None
                continue
            answer = await self._visits.send(parts.path, parts.query, form)
            text = answer.body.decode()
            number = list(USERS).index(self._tenant)
            choice = re.search(rf'href="(/login\?idp={number}&amp;[^"]+)"', text)
            location = html.unescape(choice[1]) if choice else answer.header("location")
            if location is None:
                assert answer.status == 200, text
                return text
            url, form = location, None
        raise AssertionError("the pages lead round in circles")

    def _elsewhere(self, is_crm: bool, query: dict[str, str]) -> str:
        code = unique("code")
        if is_crm:
            self._organisation.crm.codes[code] = self._user
        else:
            self._organisation.logins.codes[code] = self._user, query.get("nonce", "")
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"


@dataclass(frozen=True)
class Assertion:
    token: str
    txn: str
    tenant: str
    user: str
    agent: str


class Organisation:
    """`rows` as `ingest_audit` wrote them, in the order of time; `truth` as it was seen from outside."""

    def __init__(self, now: datetime, scratch: Path, *, decisions: int = DECISIONS) -> None:
        self.decisions = decisions
        self.start = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS + 1)
        self.truth = Truth()
        self._dice = random.Random(12)  # noqa: S311 - dice, no secret
        self._decided = 0
        self._reported: set[HandOut] = set()
        self.versions = self._configure(scratch)
        cloud = Processes()
        cloud.clock.set(self.start + timedelta(hours=8))
        self.world = World(self.versions[0], cloud=cloud, K_REVISION="two-weeks")
        cloud.pubsub = Pushing(self.world)
        self.logins = Logins(self.world)
        self.crm = CrmProvider()
        self.world.web.hosts |= {CRM: self._crm, WAREHOUSE: self._platform}
        self._platform_says: HttpAnswer | SendFailed = CALLS["done"]
        for names in AGENTS.values():
            for name in names:
                self.world.clients.documents[f"/{name}"] = key_set(client_key(name))
        self.world.cloud.service_tokens["connect_account"] = GoogleIdentity(self.world, "connect-account")
        asyncio.run(self._live())
        self.rows = [dict(row) for row in cloud.audit_rows.rows]

    @staticmethod
    def _configure(scratch: Path) -> tuple[Path, Path]:
        first = scratch / "first"
        shutil.copytree(CONFIGURATION, first)
        shutil.rmtree(first / "policies_candidate")
        (first / "policies" / "later.cedar").unlink()
        return first, CONFIGURATION

    def subject(self, tenant: str, user: str) -> str:
        return subject_key(tenant, IDP if tenant == "acme" else GLOBEX_IDP, user)

    # --- two weeks ---

    async def _live(self) -> None:
        await self.world.set_up()
        for secret in ("cab-idp-acme", "cab-idp-globex"):
            await self.world.cloud.vault.create(secret)
            await self.world.cloud.vault.add(secret, SECRET_OF_READER.encode())
        for day in range(DAYS):
            self.world.clock.set(self.start + timedelta(days=day, hours=8))
            if day == CHANGE_DAY:
                self.world.deploy(self.versions[1])
            if day == 0:
                for tenant, users in USERS.items():
                    for user in users:
                        await self._connect(tenant, user)
            await self._day(day)
            self.world.clock.set(self.start + timedelta(days=day, hours=20))
            await end_all_processes()
            self.world.deploy(self.world.folder)

    async def _day(self, day: int) -> None:
        until = self.decisions * (day + 1) // DAYS
        if day == INJECTION_DAY:
            await self._inject(day)
        if day == THEFT_DAY:
            await self._steal(day)
        if day == OUTAGE_DAY:
            await self._lose_grant(day)
            await self._fall_out(day)
        pause = timedelta(hours=10) / (self.decisions / DAYS)
        while self._decided < until:
            before = self._decided
            await self._turn(day)
            self.world.clock.advance(pause * (self._decided - before))

    def _tick(self) -> None:
        self.world.clock.advance(timedelta(milliseconds=300))

    def _somebody(self, tenant: str) -> tuple[str, str, str]:
        return tenant, self._dice.choice(USERS[tenant]), self._dice.choice(AGENTS[tenant])

    async def _turn(self, day: int) -> None:
        """A login, and what an agent then does in its user's name."""
        asked = await self._login(day, *self._somebody(self._dice.choice(("acme", "acme", "globex"))))
        if asked.agent == "support" and self._dice.random() < 0.3:
            asked = await self._pass_on(day, asked)
        for _ in range(self._dice.randint(1, 5)):
            fate = self._dice.random()
            action = self._dice.choice([name for name in OBJECTS if name != "crm.deal.delete"])
            if fate < 0.05:
                await self._ask(day, asked, "crm.deal.read", "deal/locked")
            elif fate < 0.08:
                for _ in range(4):  # more than it may in a minute
                    await self._ask(day, asked, "tracker.task.create")
            elif fate < 0.13:
                await self._confirm(day, asked, approved=fate < 0.11)
            elif fate < 0.30:
                await self._call(day, asked)
            else:
                await self._report(await self._ask(day, asked, action))

    # --- what people and agents do ---

    async def _connect(self, tenant: str, user: str) -> None:
        browser = Browser(self, tenant, user)
        self._tick()
        page = await browser.open("/me")
        await browser.open("/connect", {"csrf": _csrf(page), "connection": "crm", "decision": "connect"})
        self.truth.connected += 1

    async def _login(self, day: int, tenant: str, user: str, agent: str, *actions: str) -> Assertion:
        """Of a user who logged in once this day, for a task over some actions or all."""
        self._tick()
        issuer, front_end, audience = (
            (IDP, "web", "web-at-idp") if tenant == "acme" else (GLOBEX_IDP, "globex-web", "web-at-globex")
        )
        logged_in = int((self.start + timedelta(days=day, hours=7, minutes=55)).timestamp())
        login = self.logins.id_token(issuer, user, aud=audience, sid=f"{user} {day}", auth_time=logged_in)
        bounds = task(*(actions or OBJECTS))
        answer = await self.world.mint(
            client_id=front_end, agent=agent, subject_token=login, authorization_details=[bounds]
        )
        assert answer.status == 200, answer.body
        minted = Assertion(answer.json["access_token"], answer.txn or "", tenant, user, agent)
        self.truth.sessions.setdefault((user, day), set()).add(minted.txn)
        self._could_be_reached(day, minted)
        return minted

    def _could_be_reached(self, day: int, assertion: Assertion) -> None:
        if assertion.agent == STOLEN and day == THEFT_DAY:
            self.truth.stolen_users.add(self.subject(assertion.tenant, assertion.user))

    async def _pass_on(self, day: int, asked: Assertion) -> Assertion:
        self._tick()
        answer = await self.world.delegate(asked.token, asked.agent, STOLEN)
        assert answer.status == 200, answer.body
        self._was_decided(day, asked, None, answer)
        passed = Assertion(answer.json["access_token"], answer.txn or "", asked.tenant, asked.user, STOLEN)
        self._could_be_reached(day, passed)
        return passed

    async def _ask(
        self, day: int, asked: Assertion, action: str, identifier: str | None = None, *, address: str | None = None
    ) -> HandOut | Answer:
        """For a token: what the agent then has, or the refusal."""
        self._tick()
        identifier = identifier or f"{OBJECTS[action]}/{self._dice.randint(1, 99):02}"
        headers = [("X-Forwarded-For", f"{address}, 203.0.113.200")] if address else []
        answer = await self.world.exchange(
            intent(action, identifier), agent=asked.agent, subject_token=asked.token, headers=headers
        )
        self._was_decided(day, asked, action, answer)
        if answer.status != 200:
            return answer
        token = answer.json["access_token"]
        self.truth.tokens.setdefault((day, asked.agent), set()).add(token)
        handed = HandOut(
            answer.txn or "",
            action,
            identifier,
            asked.agent,
            details_hash(answer.json["authorization_details"]),
            token,
        )
        if (
            handed not in self._reported
        ):  # the same token again, for the same in the same transaction, is no other hand-out
            self.truth.unreported[handed.txn, action, identifier] += 1
        return handed

    def _was_decided(self, day: int, asked: Assertion, action: str | None, answer: Answer) -> None:
        truth = self.truth
        truth.decisions[day, asked.agent] += 1
        self._decided += 1
        if answer.status == 200:
            truth.issued[asked.tenant, asked.agent, action] += 1
            truth.flips += action == "crm.deal.update" and day >= CHANGE_DAY
            return
        reason = answer.reason or ""
        truth.refused_by[asked.tenant, DECIDED_BY[reason]] += 1
        truth.outage_refusals += reason == "provider_unavailable"
        if reason == "intent_outside_task":
            truth.mismatches[answer.txn or ""] += 1
        truth.flips += action == "crm.deal.update" and day >= CHANGE_DAY and DECIDED_BY[reason] in ("grant", "outage")

    async def _report(self, handed: HandOut | Answer) -> None:
        if isinstance(handed, Answer) or self._dice.random() < 0.3:
            return
        self._tick()
        is_ours = handed.token.count(".") == 2  # a JWT
        said = {"txn": handed.txn, "intent_hash": handed.intent_hash, "outcome": "done"} | (
            {"token": handed.token} if is_ours else {"token_sha256": hashlib.sha256(handed.token.encode()).hexdigest()}
        )
        body = json.dumps(said | self.world.credentials(handed.agent)).encode()
        answer = await self.world.request("POST", "/oauth2/outcomes", body=body)
        assert answer.status == 204, answer.body
        self._reported.add(handed)
        del self.truth.unreported[handed.txn, handed.action, handed.identifier]

    async def _call(self, day: int, asked: Assertion) -> None:
        """A call that the broker makes; what came of it, as the agent is told."""
        self._tick()
        form = await self.world.exchange_form(
            agent=asked.agent, subject_token=asked.token, resource=f"{ORIGIN}/mcp", authorization_details=None
        )
        answer = await self.world.post("/oauth2/token", {name: value for name, value in form.items() if value})
        assert answer.status == 200, answer.body
        self._was_decided(day, asked, None, answer)
        self.truth.call_tokens += 1
        token, number, fate = answer.json["access_token"], str(self._dice.randint(1, 99)), self._dice.random()
        self._tick()
        action = "warehouse.query.run"
        if fate < 0.1:  # its process is killed once the call is decided
            answer = await self._decided_and_killed(token, f"query/{number}")
            self.truth.unreported[answer.txn or "", action, f"query/{number}"] += 1
            self.truth.calls["unknown", "no_outcome"] += 1
        else:
            outcome = "done" if fate < 0.8 else "rejected" if fate < 0.9 else "unknown"
            if outcome == "unknown":  # of a write: a read without an answer has failed
                action = "crm.deal.update"
            self._platform_says = CALLS[outcome]
            body = {"tool": action.replace(".", "_"), "arguments": {"id": number}}
            headers = [("Authorization", f"Bearer {token}")]
            answer = await self.world.request("POST", "/tools/call", headers=headers, body=json.dumps(body).encode())
            told = "unknown" if answer.reason == "call_outcome_unknown" else answer.json.get("outcome")
            assert told == outcome, answer.body
            self.truth.calls[outcome, None] += 1
        truth = self.truth
        truth.decisions[day, asked.agent] += 1
        truth.issued[asked.tenant, asked.agent, action] += 1
        truth.flips += action == "crm.deal.update" and day >= CHANGE_DAY
        self._decided += 1

    async def _decided_and_killed(self, token: str, identifier: str) -> Answer:
        body = {
            "call_token": token,
            "policy_version": deployment(self.world.folder).policy_version,
            "connection": "warehouse",
            "detail": intent("warehouse.query.run", identifier),
        }
        identity = self.world.google_token(EXCHANGE_TOKEN, email=f"call-tool@{ACCOUNTS}")
        answer = await self.world.call_service("/internal/calls", body, identity)
        assert answer.status == 200, answer.body
        return answer

    async def _crm(self, sent: Sent) -> HttpAnswer:
        return await (self.crm if sent.path == "/token" else self._platform)(sent)

    async def _platform(self, _: Sent) -> HttpAnswer:
        if isinstance(self._platform_says, SendFailed):
            raise self._platform_says
        return self._platform_says

    async def _confirm(self, day: int, asked: Assertion, *, approved: bool) -> None:
        identifier = f"deal/{self._dice.randint(100, 999)}"
        question = await self._ask(day, asked, "crm.deal.delete", identifier)
        assert isinstance(question, Answer)
        if question.reason != "confirmation_required":
            return
        asked_at = self.world.clock.now()
        uri = question.json["interaction_uri"]
        browser = Browser(self, asked.tenant, asked.user)
        page = await browser.open(uri)
        self.world.clock.set(asked_at + timedelta(seconds=7))
        await browser.open(uri, {"csrf": _csrf(page), "decision": "approve" if approved else "refuse"})
        self.truth.answers["approved" if approved else "refused"] += 1
        if approved:
            await self._ask(day, asked, "crm.deal.delete", identifier)

    # --- what went wrong ---

    async def _fall_out(self, day: int) -> None:
        """The CRM's provider is away: harmless reads, all of them within what was asked, get nothing."""
        self.world.web.down.add(CRM)
        for number in range(max(self.decisions // 60, 3)):
            asked = await self._login(day, "acme", USERS["acme"][5 + number % 15], self._dice.choice(AGENTS["acme"]))
            await self._ask(day, asked, "crm.deal.read")
            self.world.clock.advance(timedelta(seconds=20))
        self.world.web.down.remove(CRM)
        self.world.clock.advance(timedelta(minutes=5))

    async def _lose_grant(self, day: int) -> None:
        """The CRM has forgotten one user, who connects again."""
        user = USERS["acme"][3]
        self.crm.dead.add(user)
        await self._ask(day, await self._login(day, "acme", user, "sales"), "crm.deal.read")
        self.crm.dead.remove(user)
        await self._connect("acme", user)

    async def _inject(self, day: int) -> None:
        """An agent reads a poisoned note and then wants everything deleted, at once."""
        asked = await self._login(day, "acme", USERS["acme"][5], "sales", "crm.deal.read")
        self.truth.injection_txn = asked.txn
        await self._ask(day, asked, "crm.deal.read", "deal/poisoned")
        for number in range(12):
            await self._ask(day, asked, "crm.deal.delete", f"deal/{number}")
        # The same day a clumsy agent, once.
        clumsy = await self._login(day, *self._somebody("globex"), "crm.deal.read")
        await self._ask(day, clumsy, "crm.deal.update")

    async def _steal(self, day: int) -> None:
        """Whoever has the agent's key asks from elsewhere, for the users whose assertions it can get hold of."""
        for user in self._dice.sample(USERS["acme"], 4):
            asked = await self._login(day, "acme", user, STOLEN)
            await self._ask(day, asked, "crm.deal.read", address="203.0.113.9")


def _csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([A-Za-z0-9_-]{43})"', page)
    assert found is not None, page
    return found[1]


def now() -> datetime:
    return datetime.now(UTC)
