"""The whole broker in one process, the organisation around it, and one method per thing that people and programs do.

Every builder has the values of a request that succeeds; a test names what is different about its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from cryptography.hazmat.primitives.asymmetric import ec
from tests.support import asgi
from tests.support.asgi import Answer
from tests.support.functions import ROOT, Cloud
from tests.support.jose import Key, ec_key, key_set, present, rsa_key, unb64
from tests.support.web import Documents, Sent, json_answer

from cab.adapters.configuration.loader import FolderConfiguration
from cab.domain import identifiers
from cab.domain.accounts import account_behind
from cab.domain.audit import AuditEvent
from cab.domain.configured.deployment import Deployment
from cab.domain.grants import Grant, TokenSet, grant_id
from cab.encoding.records import as_json
from cab.ports import HttpAnswer, Replace
from cab.stores.approvals import ApprovalDecision, ApprovalDecisions, ApprovalRequests
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import Grants
from cab.stores.issued_tokens import IssuedToken, IssuedTokens
from cab.stores.signing_keys import SECRET, Issuer, SigningKeys
from cab_dev.fakes.documents import Outage
from cab_ops.rotate_keys import RotateKeys, TooEarly

DEPLOYMENT = Path(__file__).with_name("deployment")
ACME = ROOT / "examples" / "acme"

ORIGIN = "http://127.0.0.1:8080"
EDGE, STS = f"{ORIGIN}/edge", f"{ORIGIN}/oauth2"
IDP = "http://127.0.0.1:8081"
CRM = "http://127.0.0.1:8082"
WIKI = "http://127.0.0.1:8083"
WAREHOUSE = "http://127.0.0.1:8084"
SPIFFE = "http://127.0.0.1:8085"
GLOBEX_IDP = "http://127.0.0.1:8086"
LEDGER = "http://127.0.0.1:8087"
CLIENTS = "http://127.0.0.1:8089"
REFRESH_GRANTS = "http://127.0.0.1:8095"
EXCHANGE_TOKEN = "http://127.0.0.1:8094"
INGEST_AUDIT = "http://127.0.0.1:8096"
GOOGLE = "https://accounts.google.com"
GOOGLE_KEYS = "https://www.googleapis.com"
ACCOUNTS = "demo-cab.iam.gserviceaccount.com"

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
DEFERRED = "urn:ietf:params:oauth:grant-type:deferred"
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT_BEARER_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
FORM = ("Content-Type", "application/x-www-form-urlencoded")

START = 1_795_262_400  # where every world's clock begins: 2026-11-21T12:00:00Z
SECRET_OF_READER = "reader-s3cret.~_+/%41"  # which reads otherwise where it is form-encoded
ENVIRONMENT = {
    "GOOGLE_CLOUD_PROJECT": "demo-cab",
    "K_REVISION": "test-00001",
    "CAB_ORIGIN": ORIGIN,
    "IDP_ORIGIN": IDP,
    "ACME_IDP_ORIGIN": IDP,
    "CRM_ORIGIN": CRM,
    "ACME_CRM_ORIGIN": CRM,
    "ACME_TRACKER_ORIGIN": WIKI,
    "WIKI_ORIGIN": WIKI,
    "WAREHOUSE_ORIGIN": WAREHOUSE,
    "ACME_WAREHOUSE_ORIGIN": WAREHOUSE,
    "SPIFFE_ORIGIN": SPIFFE,
    "GLOBEX_IDP_ORIGIN": GLOBEX_IDP,
    "LEDGER_ORIGIN": LEDGER,
    "CLIENTS_ORIGIN": CLIENTS,
    "CAB_REFRESH_GRANTS_URL": REFRESH_GRANTS,
    "CAB_EXCHANGE_TOKEN_URL": EXCHANGE_TOKEN,
    "CAB_CALL_CALLERS": f"call-tool@{ACCOUNTS}",
    "CAB_TOKEN_CALLERS": f"exchange-token@{ACCOUNTS}",
    "CAB_REVOKE_CALLERS": f"connect-account@{ACCOUNTS}",
    "CAB_SWEEP_CALLERS": f"scheduler@{ACCOUNTS},pubsub-push@{ACCOUNTS}",
    "CAB_INGEST_AUDIT_URL": INGEST_AUDIT,
    "CAB_PUSH_ACCOUNT": f"pubsub-push@{ACCOUNTS}",
    "CAB_AUDIT_SUBSCRIPTION": "projects/demo-cab/subscriptions/cab-audit-ingest",
}
FUNCTION_BY_PATH = {
    "/edge/token": "mint_assertion",
    "/oauth2/token": "exchange_token",
    "/oauth2/introspect": "exchange_token",
    "/oauth2/revoke": "exchange_token",
    "/oauth2/outcomes": "exchange_token",
    "/internal/calls": "exchange_token",
    "/internal/outcomes": "exchange_token",
    "/mcp": "call_tool",
    "/tools": "call_tool",
    "/tools/call": "call_tool",
    "/.well-known/oauth-protected-resource/mcp": "call_tool",
    "/ssf/events": "connect_account",
    "/me": "connect_account",
    "/grants/token": "refresh_grants",
    "/grants/revoke": "refresh_grants",
    "/grants/allow": "refresh_grants",
    "/grants/move": "refresh_grants",
    "/grants/sweep": "refresh_grants",
    "/grants/due": "refresh_grants",
}
CLIENT_IDS: tuple[str, ...] = (
    "web",
    "portal",
    "globex-web",
    "assistant",
    "researcher",
    "scribe",
    "archivist",
    "reader",
    "careful",
)
CLIENT_IDS += ("caller", "legacy", "warehouse-api", "stranger", "acme-web", "sales-assistant", "ops-bot")

_numbers = itertools.count(1)


@cache
def deployment(config: Path = DEPLOYMENT) -> Deployment:
    """The configuration as the functions load it."""
    return FolderConfiguration(config, ENVIRONMENT).load()


def client_key(client_id: str) -> Key:
    return rsa_key("researcher-key") if client_id == "researcher" else ec_key(f"{client_id}-key")


IDP_KEY = rsa_key("idp-key")
GLOBEX_KEY = ec_key("globex-key")
GOOGLE_KEY = rsa_key("google-key")
SPIFFE_KEY = ec_key("spiffe-key")


def unique(prefix: str) -> str:
    return f"{prefix}-{next(_numbers)}"


def intent(action: str = "warehouse.query.run", identifier: str = "query/q1", **changes: Any) -> dict[str, Any]:
    """A `cab_action` at the connection that the action's name begins with."""
    location = {"crm": CRM, "wiki": WIKI, "ledger": LEDGER, "tracker": WIKI}.get(
        action.split(".", maxsplit=1)[0], WAREHOUSE
    )
    return present(
        {"type": "cab_action", "actions": [action], "locations": [location], "identifier": identifier} | changes
    )


WRITE = intent("warehouse.table.write", "table/t1")
DROP = intent("warehouse.table.drop", "table/t1")


def task(*actions: str, identifiers: Iterable[str] = ("*",), **changes: Any) -> dict[str, Any]:
    """A `cab_task` over these actions, of a name of its own."""
    return present(
        {
            "type": "cab_task",
            "task_id": unique("task"),
            "trigger": "user_turn",
            "actions": list(actions or ["*"]),
            "identifiers": list(identifiers),
        }
        | changes
    )


def as_form(parameters: dict[str, Any]) -> bytes:
    """A form body: what is ABSENT is left out, objects and arrays are written as JSON."""
    return urlencode(
        {
            name: json.dumps(value) if isinstance(value, dict | list) else value
            for name, value in present(parameters).items()
        }
    ).encode()


@dataclass
class Provider:
    """A downstream system's token endpoint that refreshes whatever it is sent, and counts."""

    name: str
    refreshes: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, sent: Sent) -> HttpAnswer:
        form = {name: values[0] for name, values in parse_qs(sent.body.decode()).items()}
        self.refreshes.append(form)
        number = len(self.refreshes)
        answer = {"access_token": f"{self.name}-access-{number}", "token_type": "Bearer", "expires_in": 3600}
        if "scope" in form:
            answer["scope"] = form["scope"]
        return json_answer(answer | {"refresh_token": f"{self.name}-refresh-{number}"})


class GoogleIdentity:
    """`ServiceTokens` of one account, signed as Google does."""

    def __init__(self, world: World, account: str) -> None:
        self._world = world
        self._account = account

    async def identity_token(self, audience: str) -> str:
        return self._world.google_token(audience, email=f"{self._account}@{ACCOUNTS}")


class World:
    """`cloud` is what the functions share. Functions are built when they are first called."""

    def __init__(
        self, config: Path = DEPLOYMENT, *, scratch: Path | None = None, cloud: Cloud | None = None, **environment: str
    ) -> None:
        self.folder = config
        self.cloud = cloud or Cloud()
        self.environment = ENVIRONMENT | {"CAB_CONFIG_DIR": str(config)} | environment
        self.crm = Provider("crm")
        self.wiki = Provider("wiki")
        self.secrets_seen: set[str] = set()
        self.scratch = scratch
        self._apps: dict[str, Any] = {}
        self._is_set_up = False
        self._setting_up = asyncio.Lock()
        discovery = {"issuer": IDP, "jwks_uri": f"{IDP}/jwks"}
        self.idp = Documents({"/.well-known/openid-configuration": discovery, "/jwks": key_set(IDP_KEY)})
        clients: dict[str, Any] = {f"/{name}": key_set(client_key(name)) for name in CLIENT_IDS}
        self.clients = Documents(clients)
        for name in ("acme-web", "sales-assistant", "ops-bot"):
            self.idp.documents[f"/clients/{name}/jwks.json"] = key_set(client_key(name))
        self.web.hosts |= {
            IDP: self.idp,
            CLIENTS: self.clients,
            GLOBEX_IDP: Documents({"/pinned-keys": key_set(GLOBEX_KEY)}),
            SPIFFE: Documents({"/keys": key_set(SPIFFE_KEY)}),
            GOOGLE_KEYS: Documents({"/oauth2/v3/certs": key_set(GOOGLE_KEY)}),
            CRM: self.crm,
            WIKI: self.wiki,
            REFRESH_GRANTS: self._refresh_grants,
            EXCHANGE_TOKEN: self._exchange_token,
        }
        for name in ("exchange_token", "connect_account", "call_tool"):
            self.cloud.service_tokens[name] = GoogleIdentity(self, name.replace("_", "-"))

    # --- the process ---

    @property
    def web(self) -> Any:
        return self.cloud.web

    @property
    def clock(self) -> Any:
        return self.cloud.clock

    @property
    def now(self) -> int:
        return int(self.clock.now().timestamp())

    def advance(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    async def signing_key(self, issuer: str) -> Key:
        """The broker's own active key: what nobody outside has, for tokens that are wrong in one thing only."""
        await self.set_up()
        of = Issuer(issuer)
        ring = await SigningKeys(self.cloud.documents["keys"]).ring(of)
        assert ring is not None
        assert ring.active is not None
        private = json.loads(await self.cloud.vault.access(SECRET[of], ring.active.secret_version))
        number = int.from_bytes(unb64(private["d"]), "big")
        return Key(ring.active.kid, "ES256", ec.derive_private_key(number, ec.SECP256R1()))

    def write_id_jag_deployment(self) -> Path:
        """A copy of the deployment whose IdP may vouch for users to `assistant`, `legacy` (default intents), `caller`, `stranger`."""
        folder = self.write_policies(None)
        providers = folder / "identity_providers.yaml"
        providers.write_text(
            providers.read_text("utf-8").replace("tenant: acme\n", "tenant: acme\n    id_jag: true\n", 1), "utf-8"
        )
        agents = folder / "agents.yaml"
        text = agents.read_text("utf-8")
        for title in ("Assistant", "Legacy", "Caller", "Stranger"):
            text = text.replace(f"title: {title}\n", f"title: {title}\n    accepts_id_jag: true\n", 1)
        agents.write_text(text, "utf-8")
        return folder

    def write_policies(
        self, text: str | None, *, connections: Callable[[str], str] = str, rate_limits: str | None = None
    ) -> Path:
        """A copy of the deployment with this policy text instead of its own, or with its connections or limits changed."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch)) / "deployment"
        shutil.copytree(DEPLOYMENT, folder)
        if text is not None:
            (folder / "policies" / "rules.cedar").write_text(text, "utf-8")
        path = folder / "connections.yaml"
        path.write_text(connections(path.read_text("utf-8")), "utf-8")
        if rate_limits is not None:
            path = folder / "broker.yaml"
            path.write_text(
                f"{path.read_text('utf-8').partition('rate_limits:')[0]}rate_limits:\n{rate_limits}", "utf-8"
            )
        return folder

    def break_documents(self, database: str, *methods: Any, **outage: Any) -> None:
        """Let calls to a database fail, all of them or those of the methods named; `mend_documents` ends it."""
        chosen = frozenset(methods or ("read", "write", "tally", "find"))
        self.cloud.documents[database].outage = Outage(chosen, **outage)

    def mend_documents(self, database: str) -> None:
        self.cloud.documents[database].outage = None

    async def set_grant(self, name: str, **changes: Any) -> None:
        """Change a grant's document as another function would."""
        documents = self.cloud.documents["grants"]
        stored = await documents.read(f"grants/{name}")
        assert stored is not None
        await documents.write(Replace(stored.path, stored.fields | changes, stored.version))

    async def set_up(self) -> None:
        """Signing keys and client secrets, as after `cab keys init` and the first `terraform apply`. Who comes meanwhile waits."""
        async with self._setting_up:
            if not self._is_set_up:
                await self._make_keys_and_secrets()
                self._is_set_up = True

    async def _make_keys_and_secrets(self) -> None:
        rotation = RotateKeys(SigningKeys(self.cloud.documents["keys"]), self.cloud.vault, self.clock)
        await rotation.init(Issuer.EDGE)
        await rotation.init(Issuer.STS)
        for secret in (
            "cab-client-reader",
            "cab-client-ops-bot",
            "cab-provider-crm",
            "cab-provider-wiki",
            "cab-provider-tracker",
            "cab-provider-helpdesk",
        ):
            await self.cloud.vault.create(secret)
            await self.cloud.vault.add(secret, SECRET_OF_READER.encode())
        await self.cloud.vault.create("cab-escrow-key")
        await self.cloud.vault.add("cab-escrow-key", bytes(32))

    def function(self, name: str) -> Any:
        if name not in self._apps:
            self._apps[name] = self.cloud.build(name, self.environment)
        return self._apps[name]

    def restart(self, name: str, **environment: str) -> None:
        """A fresh instance of a function, which remembers nothing."""
        self.environment |= environment
        self._apps.pop(name, None)

    def deploy(self, config: Path) -> None:
        """Fresh instances of all functions, with this configuration."""
        self.folder = config
        self.environment |= {"CAB_CONFIG_DIR": str(config)}
        self._apps.clear()

    @cached_property
    def rotation(self) -> RotateKeys:
        return RotateKeys(SigningKeys(self.cloud.documents["keys"]), self.cloud.vault, self.clock)

    async def run_when_allowed(self, step: Callable[[Issuer], Awaitable[Any]], issuer: Issuer) -> None:
        """Take one step of key rotation, waiting first as long as it says."""
        try:
            await step(issuer)
        except TooEarly as early:
            self.clock.set(early.ready_at)
            await step(issuer)

    def events(self, function: str = "exchange_token") -> list[AuditEvent]:
        log = self.cloud.audit_logs.get(function)
        return [] if log is None else log.events

    def last_event(self, function: str = "exchange_token") -> dict[str, Any]:
        """The newest event, without what differs from run to run: ids, latency, chain."""
        event = as_json(self.events(function)[-1])
        for name in ("event_id", "latency_ms", "chain"):
            event.pop(name, None)
        return event

    async def _refresh_grants(self, sent: Sent) -> HttpAnswer:
        answer = await self.request(
            "POST",
            sent.path,
            function="refresh_grants",
            headers=tuple(sent.headers.items()),
            body=sent.body,
            heard=lambda part: sent.first_line(part) if sent.first_line and part.endswith(b"\n") else None,
        )
        return HttpAnswer(answer.status, dict(answer.headers), answer.body)

    async def _exchange_token(self, sent: Sent) -> HttpAnswer:
        answer = await self.request(
            "POST", sent.path, function="exchange_token", headers=tuple(sent.headers.items()), body=sent.body
        )
        if answer.status == 200:
            self.secrets_seen |= {answer.json["access_token"], answer.json["attempt"]}
        return HttpAnswer(answer.status, dict(answer.headers), answer.body)

    # --- requests ---

    async def request(
        self,
        method: str,
        path: str,
        *,
        function: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] = b"",
        query: str = "",
        is_cut: bool = False,
        heard: Callable[[bytes], None] = lambda _: None,
    ) -> Answer:
        await self.set_up()
        app = self.function(function or FUNCTION_BY_PATH.get(path, "publish_metadata"))
        headers = list(headers)
        if not any(name.lower() == "content-type" for name, _ in headers) and method == "POST":
            headers.append(("Content-Type", "application/json"))
        return await asgi.request(
            app, method, path, query=query, headers=headers, body=body, is_cut=is_cut, heard=heard
        )

    async def post(
        self, path: str, parameters: dict[str, Any] | bytes, *, headers: Iterable[tuple[str, str]] = ()
    ) -> Answer:
        """POST a form to one of the OAuth endpoints. What docs/api.md promises of every answer is checked on every answer."""
        body = parameters if isinstance(parameters, bytes) else as_form(parameters)
        if isinstance(parameters, dict):
            carried = ("subject_token", "client_assertion", "actor_token", "token", "deferral_code")
            values = {str(parameters[name]) for name in carried if name in present(parameters)}
            self.secrets_seen |= {value for value in values if len(value) > 20}
        answer = await self.request("POST", path, headers=[FORM, *headers], body=body)
        check_promises(answer)
        if answer.status == 200 and answer.body:
            self.secrets_seen |= {answer.json["access_token"]} if "access_token" in answer.json else set()
        return answer

    async def call_service(self, path: str, document: Any, token: str | None) -> Answer:
        """Call refresh_grants as one of our own services does; `token` is its Google identity."""
        authorization = [] if token is None else [("Authorization", f"Bearer {token}")]
        return await self.request("POST", path, headers=authorization, body=json.dumps(document).encode())

    # --- what the parties send ---

    def client_assertion(
        self,
        client_id: str,
        audience: str,
        *,
        key: Key | None = None,
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        now = self.now
        standard = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": now,
            "exp": now + 60,
            "jti": unique("jti"),
        }
        return (key or client_key(client_id)).sign(present(standard | claims), header)

    def credentials(self, client_id: str, audience: str = STS, **claims: Any) -> dict[str, Any]:
        """`private_key_jwt` form parameters."""
        return {
            "client_assertion_type": JWT_BEARER_ASSERTION,
            "client_assertion": self.client_assertion(client_id, audience, **claims),
        }

    def google_token(self, audience: str, *, key: Key = GOOGLE_KEY, **claims: Any) -> str:
        now = self.now
        standard = {
            "iss": GOOGLE,
            "aud": audience,
            "azp": "100000000000000000009",
            "sub": "100000000000000000009",
            "email": f"somebody@{ACCOUNTS}",
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        }
        return key.sign(present(standard | claims), {"typ": "JWT"})

    def id_token(
        self,
        user: str | None = None,
        *,
        key: Key = IDP_KEY,
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """What the IdP issued to front end `web` when `user` (a new one when none is named) logged in 30 s ago."""
        now = self.now
        standard = {
            "iss": IDP,
            "sub": user or unique("user"),
            "aud": "web-at-idp",
            "iat": now - 30,
            "exp": now + 3500,
            "auth_time": claims.get("iat", now - 30),
            "groups": ["G-STAFF", "G-OTHER"],
        }
        return key.sign(present(standard | claims), {"typ": "JWT"} | (header or {}))

    def mint_form(self, *, client_id: str = "web", agent: Any = "assistant", **changes: Any) -> dict[str, Any]:
        return (
            {
                "grant_type": TOKEN_EXCHANGE,
                "subject_token_type": TOKEN_TYPE + "id_token",
                "requested_token_type": TOKEN_TYPE + "jwt",
                "audience": STS,
                "may_act": agent,
            }
            | ({} if "client_assertion" in changes else self.credentials(client_id, EDGE))
            | ({} if "subject_token" in changes else {"subject_token": self.id_token()})
            | changes
        )

    def id_jag(
        self,
        *,
        agent: str = "assistant",
        key: Key = IDP_KEY,
        typ: str = "oauth-id-jag+jwt",
        kid: Any = None,
        **claims: Any,
    ) -> str:
        """What the IdP issued to `agent` for a user (a new one when no `sub` is named), for the warehouse."""
        standard = {
            "iss": IDP,
            "aud": STS,
            "sub": unique("user"),
            "client_id": agent,
            "jti": unique("jag"),
            "iat": self.now,
            "exp": self.now + 300,
            "auth_time": self.now,
            "groups": ["G-STAFF"],
            "resource": WAREHOUSE,
        }
        return key.sign(present(standard | claims), {"typ": typ, "kid": key.kid if kid is None else kid})

    async def redeem(self, jag: str, *, agent: str = "assistant", **changes: Any) -> Answer:
        form = {"grant_type": JWT_BEARER, "assertion": jag} | self.credentials(agent) | changes
        return await self.post("/oauth2/token", form)

    async def mint(self, **changes: Any) -> Answer:
        return await self.post("/edge/token", self.mint_form(**changes))

    async def assertion(
        self,
        agent: str = "assistant",
        user: str | None = None,
        task: dict[str, Any] | None = None,
        **login: Any,
    ) -> str:
        """A minted assertion. `login` changes claims of the ID token behind it."""
        details = {} if task is None else {"authorization_details": [task]}
        answer = await self.mint(agent=agent, subject_token=self.id_token(user, **login), **details)
        assert answer.status == 200, answer.body
        return str(answer.json["access_token"])

    async def globex_assertion(self, user: str | None = None) -> str:
        login = self.id_token(user, key=GLOBEX_KEY, iss=GLOBEX_IDP, aud="web-at-globex")
        answer = await self.mint(client_id="globex-web", agent="stranger", subject_token=login)
        assert answer.status == 200, answer.body
        return str(answer.json["access_token"])

    async def exchange_form(
        self, declared: dict[str, Any] | None = None, *, agent: str = "assistant", **changes: Any
    ) -> dict[str, Any]:
        declared = declared or intent()
        return (
            {
                "grant_type": TOKEN_EXCHANGE,
                "subject_token_type": TOKEN_TYPE + "jwt",
                "resource": declared["locations"][0] if declared.get("locations") else WAREHOUSE,
                "authorization_details": [declared],
            }
            | ({} if "client_assertion" in changes else self.credentials(agent))
            | ({} if "subject_token" in changes else {"subject_token": await self.assertion(agent)})
            | changes
        )

    async def exchange(
        self,
        declared: dict[str, Any] | None = None,
        *,
        agent: str = "assistant",
        headers: Iterable[tuple[str, str]] = (),
        **changes: Any,
    ) -> Answer:
        form = await self.exchange_form(declared, agent=agent, **changes)
        return await self.post("/oauth2/token", form, headers=headers)

    async def delegate(self, assertion: str, agent: str, next_agent: Any, **changes: Any) -> Answer:
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": assertion,
            "subject_token_type": TOKEN_TYPE + "jwt",
            "requested_token_type": TOKEN_TYPE + "jwt",
            "audience": STS,
            "may_act": next_agent,
        } | self.credentials(agent)
        return await self.post("/oauth2/token", form | changes)

    async def report(self, body: dict[str, Any], *, agent: str = "assistant") -> Answer:
        content = json.dumps(body | self.credentials(agent)).encode()
        return await self.request("POST", "/oauth2/outcomes", body=content)

    async def given(self, user: str) -> list[IssuedToken]:
        """What was given in this user's name, as their own page reads it."""
        tokens = IssuedTokens(self.cloud.documents["guards"])
        return await tokens.of_user("acme", identifiers.subject_key("acme", IDP, user), limit=30)

    async def poll(self, code: str, *, agent: str = "assistant", **changes: Any) -> Answer:
        form = {"grant_type": DEFERRED, "deferral_code": code} | self.credentials(agent)
        return await self.post("/oauth2/token", form | changes)

    async def introspect(self, token: Any, *, agent: str = "assistant", **changes: Any) -> Answer:
        return await self.post("/oauth2/introspect", {"token": token} | self.credentials(agent) | changes)

    async def revoke(self, token: Any, *, agent: str = "assistant", **changes: Any) -> Answer:
        return await self.post("/oauth2/revoke", {"token": token} | self.credentials(agent) | changes)

    # --- people ---

    async def decide(self, interaction_uri: str, *, approved: bool) -> None:
        """What the approval page records when the user clicks."""
        approval_id = interaction_uri.rpartition("/")[2]
        guards = self.cloud.documents["guards"]
        request = await ApprovalRequests(guards).read(approval_id)
        assert request is not None
        binding = request.binding
        stored = await Grants(self.cloud.documents["grants"]).read(
            grant_id(binding.tenant, binding.subject, request.connection)
        )
        configured = deployment(self.folder).connection_by_id.get(request.connection)
        decision = ApprovalDecision(
            approved=approved,
            decided_at=self.clock.now(),
            binding=binding.key(),
            account=account_behind(configured, stored.grant if stored else None),
        )
        recorded = await ApprovalDecisions(self.cloud.documents["approvals"]).record(
            request, decision, by="the user", expires_at=self.clock.now() + timedelta(hours=1)
        )
        assert recorded

    async def connect(self, user: str, connection: str, *scopes: str, tenant: str = "acme") -> str:
        """A grant as the connect flow leaves it: consented, its access token already old. The grant's id."""
        subject = identifiers.subject_key(tenant, IDP, user)
        now = self.clock.now()
        configured = deployment(self.folder)
        provider = configured.provider_of(configured.connection_by_id[connection])
        grant = Grant(
            grant_id=grant_id(tenant, subject, connection),
            tenant=tenant,
            subject=subject,
            connection=connection,
            provider=provider.id,
            provider_class=provider.rotation.rotation_class,
            leeway_s=provider.rotation.leeway_s,
            scopes=list(scopes),
            connected_at=now,
        )
        response = {"access_token": "old", "expires_in": 1, "refresh_token": f"{connection}-refresh-0"}
        payload = TokenSet(
            grant_id=grant.grant_id,
            tenant=grant.tenant,
            user_key=subject,
            seq=1,
            attempt_id="connect",
            fence=0,
            predecessor_sha256=None,
            received_at=now - timedelta(hours=1),
            status=200,
            response=b64encode(json.dumps(response).encode()).decode(),
            requested_scopes=list(scopes),
            carried_refresh_token=None,
        )
        payloads = GrantPayloads(self.cloud.vault)
        await payloads.create(grant)
        version = await payloads.add(grant, payload.model_dump_json().encode())  # another than 1 after an earlier grant
        grant = grant.model_copy(update={"secret_version": version})
        assert await Grants(self.cloud.documents["grants"]).create(grant) is not None
        return grant.grant_id


def check_promises(answer: Answer) -> None:
    """docs/api.md: what every answer of a POST endpoint keeps to, whatever was asked."""
    assert answer.header("cache-control") == "no-store"
    assert answer.txn
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("strict-transport-security") is None  # the origin is http
    if answer.status == 200:
        return
    assert answer.header("content-type") == "application/json"
    body = answer.json
    assert body["txn"] == answer.txn
    assert isinstance(body["error"], str)
    assert isinstance(body["reason_code"], str)
    assert not {"access_token", "refresh_token", "id_token"} & body.keys()
    description = body.get("error_description", "")
    assert all(" " <= char <= "~" and char not in '"\\' for char in description)  # RFC 6749 section 5.2
    assert (answer.header("retry-after") is not None) == (body["error"] == "temporarily_unavailable")
    assert answer.header("www-authenticate") is None or answer.status == 401
    assert answer.status != 500, "a bug answered"


async def gather(*calls: Any) -> list[Answer]:
    return list(await asyncio.gather(*calls))
