"""One broker's ID-JAG at another's strict acceptor: what our STS issues keeps every rule that we check ourselves."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tests.support.asgi import Answer
from tests.support.jose import claims_of
from tests.support.web import Sent
from tests.support.world import CRM, FORM, IDP, ORIGIN, SECRET_OF_READER, STS, World, intent

from cab.domain.identifiers import subject_key
from cab.ports import HttpAnswer

THERE = "http://127.0.0.1:9080"
ALICE = subject_key("acme", IDP, "alice")
READ = intent("crm.deal.read", "deal/7")
EVERYBODY_READS = (
    '@id("everybody-reads")\npermit (principal, action == CAB::Action::"warehouse.query.run", resource);\n'
)
NEIGHBOUR = f"""
  - issuer: {STS}
    tenant: acme
    jwks_uri: {ORIGIN}/oauth2/jwks.json
    algorithms: [ES256]
    id_jag: true
    login: {{client_id: cab, client_secret: {{secret: cab-idp-neighbour, version: 1}}}}
"""


def replaced(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text("utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, "utf-8")


class Chain:
    """`here` has a connection to a resource that `there` guards: the CRM of the one is the warehouse of the other."""

    def __init__(self, scratch: Path) -> None:
        self.jags: list[str] = []
        self.here = World(self._issuing(scratch), scratch=scratch)
        self.there = World(
            self._accepting(scratch), CAB_ORIGIN=THERE, WAREHOUSE_ORIGIN=CRM, CRM_ORIGIN="http://127.0.0.1:9082"
        )
        self.here.web.hosts[CRM] = self._token_endpoint
        self.there.web.hosts[ORIGIN] = self._published_keys

    def _issuing(self, scratch: Path) -> Path:
        folder = World(scratch=scratch).write_policies(None)
        replaced(
            folder / "connections.yaml",
            ("    base_scopes: [offline]\n", f"    issuer: {THERE}/oauth2\n    grant_kinds: [id_jag]\n"),
            ("    client_id: cab\n    client_secret: {secret: cab-provider-crm", "    client_id: legacy\n"
             f"    grant_kind: id_jag\n    user_map: {{{ALICE}: alice}}\n    client_secret: {{secret: cab-provider-crm"),
            ("scopes: [deal.read, contact.read]", "scopes: [query.explain]"),
        )  # fmt: skip
        return folder

    def _accepting(self, scratch: Path) -> Path:
        folder = World(scratch=scratch).write_policies(EVERYBODY_READS)
        providers = folder / "identity_providers.yaml"
        providers.write_text(providers.read_text("utf-8") + NEIGHBOUR, "utf-8")
        replaced(
            folder / "agents.yaml",
            (
                "title: Legacy\n    tenant: acme\n    authentication:\n",
                "title: Legacy\n    tenant: acme\n    accepts_id_jag: true\n    authentication:\n"
                "      - {method: client_secret_basic, secret: {secret: cab-client-reader, version: 1}}\n",
            ),
            ("title: Reader\n", "title: Reader\n    accepts_id_jag: true\n"),
        )
        return folder

    async def _token_endpoint(self, sent: Sent) -> HttpAnswer:
        self.jags.append(dict(parse_qsl(sent.body.decode()))["assertion"])
        answer = await self.there.request(
            "POST", "/oauth2/token", headers=[FORM, *sent.headers.items()], body=sent.body
        )
        return HttpAnswer(answer.status, dict(answer.headers), answer.body)

    async def _published_keys(self, sent: Sent) -> HttpAnswer:
        answer = await self.here.request("GET", sent.path)
        return HttpAnswer(answer.status, dict(answer.headers), answer.body)

    async def read(self, user: str = "alice", **task: Any) -> Answer:
        return await self.here.exchange(READ, subject_token=await self.here.assertion(user=user, **task))


async def test_the_other_broker_gives_its_own_token_for_the_user(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    answer = await chain.read()
    assert (answer.status, answer.json.get("scope")) == (200, "query.explain"), answer.body
    token = claims_of(answer.json["access_token"])
    assert (token["iss"], token["aud"], token["client_id"]) == (f"{THERE}/oauth2", CRM, "legacy")
    assert token["sub"] == subject_key("acme", STS, "alice")
    login = claims_of(chain.jags[0])
    assert (token["auth_time"], login["aud"], login["client_id"]) == (login["auth_time"], f"{THERE}/oauth2", "legacy")


async def test_it_is_good_once_and_at_no_endpoint_of_the_broker_that_made_it(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    await chain.read()
    (jag,) = chain.jags
    bearer = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": jag}
    headers = [FORM, *chain.here.web.requests_to(CRM)[0].headers.items()]
    body = chain.here.web.requests_to(CRM)[0].body
    again = await chain.there.request("POST", "/oauth2/token", headers=headers, body=body)
    assert (again.status, again.json["reason_code"]) == (400, "assertion_invalid")
    own = await chain.here.post("/oauth2/token", bearer | chain.here.credentials("assistant"))
    assert own.status == 400
    for place in ("subject_token", "client_assertion"):
        misplaced: dict[str, Any] = {place: jag}
        assert (await chain.here.exchange(READ, **misplaced)).status in (400, 401)
    assert (await chain.here.introspect(jag)).json == {"active": False}


async def test_another_client_gets_nothing_for_it_and_leaves_it_unspent(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.here.web.down.add(CRM)
    assert (await chain.read()).status == 503
    (sent,) = chain.here.web.requests_to(CRM)
    thief = b64encode(f"reader:{SECRET_OF_READER}".encode()).decode()
    stolen = await chain.there.request(
        "POST", "/oauth2/token", headers=[FORM, ("Authorization", f"Basic {thief}")], body=sent.body
    )
    assert (stolen.status, stolen.json["reason_code"]) == (400, "assertion_invalid")
    assert (await chain._token_endpoint(sent)).status == 200
