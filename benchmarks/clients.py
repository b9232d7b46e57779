"""Who calls: the keys of a front end, an agent, an IdP and the edge, and the requests that they prepare."""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from benchmarks.load import Click, Leg, Legs, Post, Push, ToolCall
from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain.audit import AuditEvent, Service
from cab.domain.identifiers import digest, subject_key
from cab.protocol import names
from cab.protocol.jose import jws
from cab.protocol.jose.jwk import public_jwk
from cab.protocol.jose.jws import VerifiedClaims
from cab.protocol.tokens import assertions, call_tokens
from cab.use_cases.audit.packing import pack

FRONT_END = "acme-web"
AGENT = "sales-assistant"
TENANT = "acme"
PEOPLE = 400
NARROWING = 64  # so many that each comes back when nothing is under way for it any more
SCOPES = tuple(f"opportunity.read.{number:02}" for number in range(16))  # what they have granted
LOOP = 20  # requests of one transaction, and what a task with a limit is good for
ABREAST = 16  # agents in a loop, each for a user of its own
_NARROWER = tuple(itertools.combinations(SCOPES, 3))
_PERSON = "alice"
_TASK = {
    "type": names.TASK_TYPE,
    "task_id": "t-81",
    "trigger": "user_turn",
    "actions": ["crm.opportunity.*", "tracker.task.create"],
    "identifiers": ["opportunity/*", "task/*"],
}


@dataclass(frozen=True)
class EcKey:
    """A P-256 key that signs JWTs."""

    kid: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)

    def sign(self, claims: dict[str, Any], *, typ: str) -> str:
        return jws.sign(claims, typ=typ, kid=self.kid, private_key=self.key)

    def public_jwk(self) -> dict[str, Any]:
        return public_jwk(ECAlgorithm.to_jwk(self.key, as_dict=True) | {"kid": self.kid})


@dataclass(frozen=True)
class IdentityProvider:
    """The enterprise IdP: RS256, as most are. `issuer` is an origin."""

    issuer: str
    _key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), repr=False
    )

    @property
    def subject(self) -> str:
        """`sub` of everything the broker makes for the person."""
        return subject_key(TENANT, self.issuer, _PERSON)

    def key_set(self) -> dict[str, Any]:
        public = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [public | {"kid": "idp-1", "alg": "RS256", "use": "sig"}]}

    def id_token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": _PERSON,
            "aud": FRONT_END,
            "iat": now,
            "exp": now + 3600,
            "auth_time": now,
            "amr": ["pwd", "otp"],
            "groups": ["everyone", "sales", "emea"],
            "name": "Alice Example",
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "idp-1"})


def person(subject: str, number: int) -> str:
    """`sub` of one of `PEOPLE`; the first is the person that everything else is about."""
    return subject if number == 0 else digest(subject, str(number))


@dataclass(frozen=True)
class Clients:
    """A front end and an agent of one broker. Every request is fresh: no token in it was ever seen before, unless it is by
    nature the same for an hour (ID tokens, Google identities)."""

    origin: str
    resources: dict[str, str]
    idp: IdentityProvider
    edge: EcKey
    sts: EcKey
    client: EcKey
    _call_tokens: dict[int, str] = field(default_factory=dict, repr=False)
    _loops: deque[tuple[int, str]] = field(
        default_factory=deque, repr=False
    )  # how often each assertion was used, and it
    _limited: list[tuple[int, str]] = field(default_factory=list, repr=False)
    _turn: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def mint(self, *, identity: str | None = None) -> Post:
        """A login for an assertion. `identity` is a Google ID token; without it the front end signs for itself."""
        form = {
            "grant_type": names.TOKEN_EXCHANGE,
            "subject_token": self.idp.id_token(),
            "subject_token_type": names.ID_TOKEN_TYPE,
            "requested_token_type": names.JWT_TYPE,
            "audience": f"{self.origin}/oauth2",
            "may_act": AGENT,
            "authorization_details": json.dumps([_TASK]),
        }
        return Post("/edge/token", form | self._authentication(FRONT_END, f"{self.origin}/edge", identity))

    def list_opportunities(self, *, identity: str | None = None) -> Post:
        """An exchange for the platform's own token, to read with. `identity` as in `mint`."""
        return self._exchange("crm", "crm.opportunity.list", "opportunity/*", {"account": "acme"}, identity=identity)

    def list_in_a_loop(self) -> Post:
        """As `list_opportunities`, by agents that read twenty times with one assertion, each for a user: sixteen in turn, then the
        next sixteen.
        """
        if len(self._loops) < ABREAST:
            subject = person(self.idp.subject, next(self._turn) % PEOPLE)
            self._loops.append((0, self.assertion(subject=subject)))
        used, assertion = self._loops.popleft()
        if used < LOOP - 1:
            self._loops.append((used + 1, assertion))
        parameters = {"account": "acme"}
        return self._exchange("crm", "crm.opportunity.list", "opportunity/*", parameters, assertion=assertion)

    def read_of_everybody(self) -> list[Post]:
        """Once for each user: what a process has in memory that has served them before."""
        subjects = [person(self.idp.subject, number) for number in range(PEOPLE)]
        action, identifier = "crm.opportunity.read", "opportunity/0061"
        return [
            self._exchange("crm", action, identifier, {}, assertion=self.assertion(subject=subject))
            for subject in subjects
        ]

    def list_with_other_scopes(self) -> Post:
        """As `list_opportunities`, each time with scopes that its user has no token for: another three of those that are granted."""
        number, turn = divmod(next(self._turn), NARROWING)
        scopes = _NARROWER[number % len(_NARROWER)]
        assertion = self.assertion(subject=person(self.idp.subject, turn))
        asked = self._exchange("crm", "crm.opportunity.list", "opportunity/*", {"account": "acme"}, assertion=assertion)
        return replace(asked, form=asked.form | {"scope": " ".join(scopes)})

    def list_of_many_users(self) -> Post:
        """As `list_opportunities`, of `PEOPLE` in turn, all connected."""
        subject = person(self.idp.subject, next(self._turn) % PEOPLE)
        parameters = {"account": "acme"}
        assertion = self.assertion(subject=subject)
        return self._exchange("crm", "crm.opportunity.list", "opportunity/*", parameters, assertion=assertion)

    def update_opportunity(self, *, identity: str | None = None) -> Post:
        """An exchange for the platform's own token, to write with, which takes a task of the user. `identity` as in `mint`."""
        parameters = {"stage": "won", "amount_cents": 120_000}
        action, identifier = "crm.opportunity.update", "opportunity/0061"
        return self._exchange("crm", action, identifier, parameters, task=_TASK, identity=identity)

    def update_in_a_limited_task(self, *, identity: str | None = None) -> Post:
        """As `update_opportunity`, in a task that is good for twenty uses: each for another opportunity, then another task."""
        used, assertion = self._limited.pop() if self._limited else (0, self.assertion(self._limited_task()))
        if used < LOOP - 1:
            self._limited.append((used + 1, assertion))
        parameters = {"stage": "won", "amount_cents": 120_000}
        action, identifier = "crm.opportunity.update", f"opportunity/{used:04}"
        return self._exchange("crm", action, identifier, parameters, assertion=assertion, identity=identity)

    def _limited_task(self) -> dict[str, Any]:
        return _TASK | {"task_id": secrets.token_hex(8), "limits": {"max_uses": LOOP}}

    def confirmed_deletion(self, *, pages: int, session: str, csrf: str) -> Legs:
        """All of a confirmed action: the agent asks, the user clicks on the page of `pages` (a port), the agent asks again."""
        assertion, identifier = self.assertion(_TASK), f"opportunity/{secrets.token_hex(8)}"

        def ask(_: bytes) -> Post:
            return self._exchange("crm", "crm.opportunity.delete", identifier, {}, assertion=assertion)

        def agree(asked: bytes) -> Click:
            _, _, approval = json.loads(asked)["interaction_uri"].rpartition("/")
            return Click(f"/approvals/{approval}", {"decision": "approve", "csrf": csrf}, session)

        return Legs((Leg(ask, status=400), Leg(agree, port=pages), Leg(ask)))

    def call_list_opportunities(self, *, account: str = "acme") -> ToolCall:
        """The same reading as a call that the broker makes. `slow` is the account that the platform takes its time for."""
        return ToolCall("crm_opportunity_list", {"account": account}, self._call_token())

    def _call_token(self) -> str:
        """As exchange_token would make it; one for all calls of half a minute."""
        now = datetime.now(UTC).replace(microsecond=0)
        period = int(now.timestamp()) // 30
        if period not in self._call_tokens:
            issuer = f"{self.origin}/oauth2"
            verified = VerifiedClaims(
                jwt.decode(self.assertion(), options={"verify_signature": False}),
                issuer,
                expires_at=now + timedelta(seconds=300),
                issued_at=now,
            )
            claims = call_tokens.claims(
                assertions.read(verified),
                issuer=issuer,
                audience=f"{self.origin}/mcp",
                agent=AGENT,
                scopes=("tools.read", "tools.write"),
                intents=None,
                jti=secrets.token_urlsafe(16),
                now=now,
                expires_at=now + timedelta(seconds=300),
                jkt=None,
            )
            self._call_tokens.clear()
            self._call_tokens[period] = self.sts.sign(claims, typ=names.ACCESS_TOKEN_TYP)
        return self._call_tokens[period]

    def query_warehouse(self, *, identity: str | None = None) -> Post:
        """An exchange for a JWT of the broker. `identity` as in `mint`."""
        parameters = {"query": "select 1"}
        return self._exchange("warehouse", "warehouse.query.run", "query/deals", parameters, identity=identity)

    def _exchange(
        self,
        connection: str,
        action: str,
        identifier: str,
        parameters: dict[str, Any],
        *,
        task: dict[str, Any] | None = None,
        identity: str | None = None,
        assertion: str | None = None,
    ) -> Post:
        resource = self.resources[connection]
        intent = {
            "type": names.ACTION_TYPE,
            "actions": [action],
            "locations": [resource],
            "identifier": identifier,
            "parameters": parameters,
            "reason": "The customer has signed the order form.",
        }
        form = {
            "grant_type": names.TOKEN_EXCHANGE,
            "subject_token": assertion or self.assertion(task),
            "subject_token_type": names.JWT_TYPE,
            "resource": resource,
            "authorization_details": json.dumps([intent]),
        }
        return Post("/oauth2/token", form | self._authentication(AGENT, f"{self.origin}/oauth2", identity))

    def assertion(self, task: dict[str, Any] | None = None, *, subject: str | None = None) -> str:
        """As mint_assertion would make it."""
        now = int(time.time())
        claims = {
            "iss": f"{self.origin}/edge",
            "aud": f"{self.origin}/oauth2",
            "sub": subject or self.idp.subject,
            "tenant": TENANT,
            "idp": {"iss": self.idp.issuer, "sub_hash": "h" * 43},
            "groups": ["sales"],
            "client_id": FRONT_END,
            "may_act": {"sub": AGENT},
            "txn": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + 300,
            "jti": secrets.token_urlsafe(16),
            "auth_time": now,
            "amr": ["pwd", "otp"],
        }
        if task is not None:
            claims["authorization_details"] = [task]
        return self.edge.sign(claims, typ=names.ASSERTION_TYP)

    def _authentication(self, client_id: str, audience: str, identity: str | None) -> dict[str, str]:
        now = int(time.time())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": now,
            "exp": now + 60,
            "jti": secrets.token_urlsafe(16),
        }
        return {
            "client_assertion_type": names.CLIENT_ASSERTION_TYPE,
            "client_assertion": identity or self.client.sign(claims, typ="JWT"),
        }


@dataclass(frozen=True)
class Publisher:
    """What Pub/Sub delivers of one process's record: events like `like`, each new and in its place of the chain."""

    like: AuditEvent
    subscription: str
    token: str = field(repr=False)
    _chain: AuditChain = field(
        default_factory=lambda: AuditChain("bench", Service(function="exchange_token", revision="bench"))
    )

    def push(self, events: int) -> Push:
        """One message that carries so many events."""
        sealed = [self._chain.seal(replace(self.like, event_id=str(uuid.uuid4()), chain=None)) for _ in range(events)]
        message = {
            "data": base64.b64encode(pack(sealed)).decode(),
            "messageId": secrets.token_hex(8),
            "publishTime": datetime.now(UTC).isoformat(),
        }
        body = json.dumps({"message": message, "subscription": self.subscription}).encode()
        return Push(body, self.token)
