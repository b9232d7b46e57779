"""`cab idp check`: each mistake at an identity provider, in an entry or in a token shows as its own finding, and no token with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.cli.test_explain import ACME, ENVIRONMENT
from tests.protocol.test_jwk import ROCA, _rsa
from tests.support.jose import ABSENT, ec_key, key_set, rsa_key
from tests.support.web import Sent, WebClient, json_answer
from tests.support.world import GLOBEX_IDP, IDP, START, World, deployment

from cab.adapters.keys.key_sets import RemoteKeySets, source_of
from cab.domain.configured.deployment import Deployment
from cab.ports import HttpAnswer
from cab_ops.check_connection import Finding, Holds
from cab_ops.check_identity_provider import CheckIdentityProvider
from cab_ops.cli import main

DISCOVERY: dict[str, Any] = {
    "issuer": IDP,
    "authorization_endpoint": f"{IDP}/authorize",
    "token_endpoint": f"{IDP}/token",
    "jwks_uri": f"{IDP}/jwks",
    "id_token_signing_alg_values_supported": ["RS256"],
}
YES, NO, UNKNOWN = Holds.YES, Holds.NO, Holds.UNKNOWN


@pytest.fixture
def world() -> World:
    world = World()
    world.idp.documents["/.well-known/openid-configuration"] = DISCOVERY
    return world


def entry(**changes: Any) -> Deployment:
    """The deployment with another entry for the IdP."""
    changed = deployment().identity_provider_by_issuer[IDP].model_copy(update=changes)
    others = deployment().identity_providers[1:]
    return replace(deployment(), identity_providers=(changed, *others))


def checks(world: World, of: Deployment) -> CheckIdentityProvider:
    origins = {IDP, GLOBEX_IDP, "https://keys.test"}
    http = WebClient(world.web, origins, what="identity_provider")
    keys = RemoteKeySets({it.issuer: source_of(it) for it in of.identity_providers}, http, world.clock)
    return CheckIdentityProvider(of, http, keys, world.clock, why=lambda _: "no connection")


def by_name(found: list[Finding]) -> dict[str, Finding]:
    assert len({it.check for it in found}) == len(found)
    return {it.check: it for it in found}


async def of_issuer(world: World, of: Deployment | None = None, issuer: str = IDP) -> dict[str, Finding]:
    of = of or deployment()
    return by_name(await checks(world, of).issuer(of.identity_provider_by_issuer[issuer]))


async def of_token(world: World, token: str, of: Deployment | None = None) -> dict[str, Finding]:
    check = checks(world, of or deployment())
    found = check.form(token)
    provider = check.provider_of(token)
    if provider is not None:
        found += await check.token(token, provider)
    assert not any(part in repr(found) for part in token.split("."))
    return by_name(found)


def those_that(found: dict[str, Finding], holds: Holds) -> set[str]:
    return {name for name, it in found.items() if it.holds is holds}


# --- the live provider ---


async def test_an_identity_provider_that_is_right_holds_in_every_check(world: World) -> None:
    found = await of_issuer(world)
    names = ["https", "discovery", "authorization_endpoint", "token_endpoint", "jwks_uri", "algorithms", "keys", "ROCA"]
    assert list(found) == [*names, "clock"]
    assert those_that(found, YES) == set(names)  # the double's answers have no Date
    assert found["keys"].says == "usable: idp-key"


ANNOUNCED: dict[str, tuple[dict[str, Any], str, Holds, str]] = {
    "another issuer": ({"issuer": f"{IDP}/"}, "discovery", NO, "names another issuer"),
    "a login elsewhere": ({"authorization_endpoint": "https://x.test/a"}, "authorization_endpoint", NO, "origin"),
    "no token endpoint": ({"token_endpoint": None}, "token_endpoint", NO, "missing or no URL"),
    "keys elsewhere": ({"jwks_uri": "https://keys.test/jwks"}, "jwks_uri", NO, "nor in endpoint_origins"),
    "keys nobody can ask for": ({"jwks_uri": "https://keys.test/jwks"}, "keys", NO, "no key set that may be asked"),
    "other algorithms": ({"id_token_signing_alg_values_supported": ["ES256"]}, "algorithms", NO, "none of RS256"),
    "no algorithms": ({"id_token_signing_alg_values_supported": None}, "algorithms", UNKNOWN, "does not say"),
    "no PKCE": ({"code_challenge_methods_supported": ["plain"]}, "PKCE", UNKNOWN, "S256"),
    "no groups": ({"claims_supported": ["sub"]}, "claims", UNKNOWN, "does not list groups"),
}


@pytest.mark.parametrize("name", ANNOUNCED)
async def test_what_the_document_says_wrong_is_found_where_it_is(world: World, name: str) -> None:
    changes, check, holds, says = ANNOUNCED[name]
    world.idp.documents["/.well-known/openid-configuration"] = DISCOVERY | changes
    found = (await of_issuer(world))[check]
    assert found.holds is holds
    assert says in found.says


async def test_keys_on_a_configured_origin_are_asked_for(world: World) -> None:
    async def keys(_: Sent) -> HttpAnswer:
        return json_answer(key_set(rsa_key("idp-key")))

    world.web.hosts["https://keys.test"] = keys
    world.idp.documents["/.well-known/openid-configuration"] = DISCOVERY | {"jwks_uri": "https://keys.test/jwks"}
    assert (await of_issuer(world, entry(endpoint_origins=("https://keys.test",))))["keys"].holds is YES


async def test_a_pinned_key_set_is_asked_for_also_where_discovery_is_missing(world: World) -> None:
    found = await of_issuer(world, issuer=GLOBEX_IDP)
    assert (found["discovery"].holds, found["keys"].holds) == (NO, YES)
    assert found["keys"].says == "usable: globex-key"


async def test_each_key_that_cannot_be_used_says_why(world: World) -> None:
    encrypts = rsa_key("other").jwk | {"kid": "enc", "use": "enc"}
    small = _rsa(ROCA) | {"kid": "weak"}
    world.idp.documents["/jwks"] = {
        "keys": [
            *(rsa_key("idp-key").jwk, encrypts, ec_key("curve").jwk, small),
            *(rsa_key("a").jwk, rsa_key("b").jwk | {"kid": "a"}),
        ]
    }
    found = await of_issuer(world)
    assert found["keys"].holds is YES
    for says in (
        "usable: idp-key;",
        "enc (is not for signatures)",
        "curve (is for an algorithm that the entry does not name)",
        "a (shares its kid with another key)",
        "weak (was made by a library whose keys can be factored (ROCA))",
    ):
        assert says in found["keys"].says
    assert found["ROCA"].holds is NO


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"keys": [ec_key("curve").jwk]}, "usable: none"),
        ({"keys": [rsa_key("idp-key").jwk, {"kty": "oct", "k": "c2VjcmV0"}]}, "holds a symmetric key"),
        ({"keys": {}}, "is not a key set"),
        ([], "is no strict JSON object"),
    ],
)
async def test_a_key_set_that_verifies_nothing_does_not_hold(world: World, document: Any, says: str) -> None:
    world.idp.documents["/jwks"] = document
    found = (await of_issuer(world))["keys"]
    assert found.holds is NO
    assert says in found.says


async def test_a_provider_that_is_down_is_said_in_words(world: World) -> None:
    world.web.down.add(IDP)
    found = await of_issuer(world)
    assert (found["discovery"].holds, found["discovery"].says) == (NO, "no connection")


async def test_a_clock_that_is_wrong_is_found(world: World) -> None:
    async def dated(sent: Sent) -> HttpAnswer:
        answer = await world.idp(sent)
        at = datetime.fromtimestamp(world.now + 300, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return HttpAnswer(answer.status, {"date": at}, answer.body)

    world.web.hosts[IDP] = dated
    assert (await of_issuer(world))["clock"].says == "300 s apart from this machine's"


async def test_plain_http_holds_only_where_the_machine_may_talk_to_itself(world: World) -> None:
    broker = deployment().broker.model_copy(update={"allow_loopback_http": False})
    assert (await of_issuer(world, replace(deployment(), broker=broker)))["https"].holds is NO


# --- a token ---


async def test_a_token_that_is_right_holds_in_every_check(world: World) -> None:
    found = await of_token(world, world.id_token("alice"))
    assert those_that(found, YES) == set(found)
    assert list(found) == [
        *("form", "entry", "header", "signature", "issuer", "audience", "times", "no logout token", "subject claim"),
        *("groups", "auth_time"),
    ]
    assert found["groups"].says == "mapped: staff"
    assert found["audience"].says.startswith("for front end web; not for front end portal (aud is not us)")
    assert "alice" not in repr(found)


WRONG: dict[str, tuple[dict[str, Any], str, Holds, str]] = {
    "an access token": ({"header": {"typ": "at+jwt"}}, "header", NO, "typ is not of this kind"),
    "an unknown key": ({"header": {"kid": "gone"}}, "signature", NO, "kid names none"),
    "another key": ({"key": rsa_key("other"), "header": {"kid": "idp-key"}}, "signature", NO, "does not verify"),
    "another algorithm": ({"key": ec_key("curve")}, "signature", NO, "kid names none"),
    "another client": ({"aud": "somebody"}, "audience", NO, "for nobody registered"),
    "another party": ({"azp": "somebody"}, "audience", NO, "front end web (azp is another client)"),
    "ended": ({"iat": 1_795_250_000, "exp": 1_795_260_000}, "times", NO, "expired"),
    "ended a moment ago": ({"iat": START - 600, "exp": START - 1}, "times", NO, "expired"),
    "a login to come": ({"auth_time": START + 600}, "auth_time", NO, "auth_time is in the future"),
    "from the future": ({"iat": 1_795_265_000, "auth_time": START}, "times", NO, "iat is in the future"),
    "a logout": ({"events": {}}, "no logout token", NO, "a logout token is no ID token"),
    "nobody": ({"sub": ABSENT}, "subject claim", NO, "missing or no text"),
    "no groups": ({"groups": ABSENT}, "groups", UNKNOWN, "missing: the identity provider did not send"),
    "too many groups": ({"hasgroups": True}, "groups", UNKNOWN, "left_out: "),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_with_a_token_is_found_where_it_is_and_hides_nothing_else(world: World, name: str) -> None:
    changes, check, holds, says = WRONG[name]
    found = await of_token(world, world.id_token(**({"sub": "alice"} | changes)))
    assert found[check].holds is holds
    assert says in found[check].says
    assert those_that(found, NO) | those_that(found, UNKNOWN) == {check}
    assert found["entry"].says == f"{IDP}, tenant acme"


@pytest.mark.parametrize("name", WRONG)
async def test_the_broker_refuses_exactly_what_does_not_hold(world: World, name: str) -> None:
    changes, _, holds, _ = WRONG[name]
    answer = await world.mint(subject_token=world.id_token(**({"sub": "alice"} | changes)))
    assert answer.status == (200 if holds is UNKNOWN else 400)


async def test_a_token_of_the_pages_own_client_is_for_the_pages(world: World) -> None:
    assert (await of_token(world, world.id_token(aud="cab")))["audience"].says.startswith("for the pages; not for")


async def test_an_id_jag_is_held_to_its_own_rules(world: World) -> None:
    jag = world.id_jag()
    found = await of_token(world, jag)
    assert (found["ID-JAG"].holds, found["audience"].holds) == (NO, NO)
    assert found["signature"].holds is YES

    agents = tuple(it.model_copy(update={"accepts_id_jag": it.client_id == "assistant"}) for it in deployment().agents)
    accepting = replace(entry(id_jag=True), agents=agents)
    found = await of_token(world, jag, accepting)
    assert those_that(found, YES) == set(found)
    assert found["audience"].says == "for agent assistant"
    assert (await of_token(world, world.id_jag(agent="reader"), accepting))["audience"].holds is NO
    assert (await of_token(world, world.id_jag(jti=ABSENT), accepting))["other claims"].says.startswith(
        "jti is missing"
    )


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
async def test_what_is_no_token_is_said_and_nothing_else_is_tried(world: World, text: str) -> None:
    check = checks(world, deployment())
    (found,) = check.form(text)
    assert (found.check, found.holds) == ("form", NO)
    assert check.provider_of(text) is None


@pytest.mark.parametrize(
    ("issuer", "says"), [(f"{IDP}/", "but for a slash or capitals"), ("https://evil.test", "issuer of none of them")]
)
async def test_a_token_leads_nowhere_but_to_configured_issuers(world: World, issuer: str, says: str) -> None:
    found = await of_token(world, world.id_token(iss=issuer))
    assert list(found) == ["form", "entry"]
    assert says in found["entry"].says
    assert world.web.sent == []


# --- the command ---


class Live:
    """An identity provider on this machine, with what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.key = rsa_key("idp-key")
        self.origin = ""

    def document(self, path: str) -> Any:
        if path == "/jwks":
            return key_set(self.key)
        return {name: value.replace(IDP, self.origin) for name, value in DISCOVERY.items() if isinstance(value, str)}

    def id_token(self, **claims: Any) -> str:
        now = int(datetime.now(UTC).timestamp())
        standard = {"iss": self.origin, "aud": "acme-web", "sub": "alice", "iat": now, "exp": now + 600}
        return self.key.sign(standard | {"groups": ["sales"]} | claims, {"typ": "JWT"})


@contextmanager
def live() -> Iterator[Live]:
    idp = Live()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            idp.asked.append(f"{self.requestline} {self.headers}")
            body = json.dumps(idp.document(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    idp.origin = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield idp
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def idp() -> Iterator[Live]:
    with live() as started:
        yield started


def run(idp: Live, *arguments: str, text: str | None = None, folder: Path = ACME) -> Any:
    runner = CliRunner(env=ENVIRONMENT | {"ACME_IDP_ORIGIN": idp.origin})
    return runner.invoke(main, ["idp", "check", *arguments, "--config", str(folder)], input=text)


def test_the_command_tries_an_issuer_and_names_the_redirect_uri(idp: Live) -> None:
    result = run(idp, idp.origin, "--json")
    answer = json.loads(result.stdout)
    found = {it["check"]: it["result"] for it in answer["checks"]}
    assert (result.exit_code, answer["issuer"], answer["tenant"]) == (0, idp.origin, "acme")
    assert answer["redirect_uri"] == f"{ENVIRONMENT['CAB_ORIGIN']}/login/callback"
    assert {found[name] for name in ("entry", "discovery", "keys", "clock")} == {"holds"}
    assert "register there for the pages: " + answer["redirect_uri"] in run(idp, idp.origin).stdout


@pytest.mark.parametrize("given", ["argument", "file", "standard input"])
def test_the_command_tries_a_token_however_it_is_given_and_neither_prints_nor_sends_it(
    idp: Live, tmp_path: Path, given: str
) -> None:
    token = idp.id_token()
    path = tmp_path / "token"
    path.write_text(token + "\n", "utf-8")
    argument = {"argument": token, "file": str(path), "standard input": "-"}[given]
    for options in ((), ("--json",)):
        result = run(idp, argument, *options, text=token if given == "standard input" else None)
        assert result.exit_code == 0, result.output
        assert "mapped: sales" in result.stdout
        for part in token.split("."):
            assert part not in result.output
            assert not any(part in asked for asked in idp.asked)


def test_the_command_exits_with_1_when_a_check_does_not_hold(idp: Live) -> None:
    result = run(idp, "-", text=idp.id_token(aud="somebody"))
    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("does not hold")]
    assert [line.split()[3] for line in failed] == ["audience"]


def test_an_issuer_that_has_no_entry_yet_can_be_tried(idp: Live) -> None:
    with live() as other:
        result = run(idp, other.origin, "--json")
    answer = json.loads(result.stdout)
    found = {it["check"]: it for it in answer["checks"]}
    assert result.exit_code == 1
    assert found["entry"]["says"] == f"no entry has exactly this issuer; there are: {idp.origin}"
    assert found["keys"]["result"] == "holds"


def test_the_warnings_of_the_entry_are_shown_and_of_no_other(idp: Live, tmp_path: Path) -> None:
    folder = tmp_path / "acme"
    folder.mkdir()
    for path in [*ACME.glob("*.yaml"), *(ACME / "policies").glob("*")]:
        (folder / path.relative_to(ACME)).parent.mkdir(exist_ok=True)
        (folder / path.relative_to(ACME)).write_text(path.read_text("utf-8"), "utf-8")
    entries = folder / "identity_providers.yaml"
    text = entries.read_text("utf-8").replace(
        "tenant: acme\n", "tenant: acme\n    title: One\n    subject_claim: email\n"
    )
    text = text.replace("version: 1}", "version: 1}\n      callback: one")
    second = text[text.index("  - issuer") :].replace("${ACME_IDP_ORIGIN}", "https://two.test")
    entries.write_text(text + second.replace("One", "Two").replace("email", "upn").replace("one", "two"), "utf-8")

    result = run(idp, idp.origin, "--json", folder=folder)
    warnings = [it["says"] for it in json.loads(result.stdout)["checks"] if it["check"] == "entry: warning"]
    assert len(warnings) == 1
    assert "`email` can change" in warnings[0]
    assert json.loads(result.stdout)["redirect_uri"].endswith("/login/callback/one")
    assert result.exit_code == 0  # a warning is none that does not hold


@pytest.mark.parametrize("argument", ["nowhere", "https://[idp.test", "x" * 5000])
def test_what_is_neither_issuer_nor_token_nor_file_is_refused(idp: Live, argument: str) -> None:
    result = run(idp, argument)
    assert result.exit_code == 2
    assert "no " in result.output
    assert idp.asked == []
