"""`cab connection check`: each mistake an organisation can make with a provider shows as its own finding, and no secret with it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from tests.cli.test_explain import ACME, ENVIRONMENT
from tests.examples.acme_in_process import CRM, SECRET
from tests.transport.acme_pages import AcmePages, change_connection

from cab.adapters.http.aiohttp_wire import why_failed
from cab.adapters.http.client import AiohttpClient
from cab.domain.configured.deployment import Deployment
from cab.ports import HttpAnswer, SendFailed
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab_dev.fakes.randomness import PredictableRandomness
from cab_ops.check_connection import CheckConnection, Finding, Holds
from cab_ops.cli import main


def findings(acme: AcmePages, *, http: Any = None, with_secret: bool = True) -> dict[str, Finding]:
    http = http or acme.provider_http
    calls = ProviderCalls(http, acme.secrets) if with_secret else None
    check = CheckConnection(
        acme.deployment, http, calls, acme.clock, PredictableRandomness(), why=lambda _: "no connection"
    )
    found = acme.run(check(acme.deployment.connection_by_id["crm"]))
    assert SECRET not in repr(found)
    return {it.check: it for it in found}


def changed(**provider: Any) -> AcmePages:
    return AcmePages(change=lambda it: change_connection(it, "crm", **provider))


def test_a_connection_that_is_right_holds_in_every_check() -> None:
    found = findings(AcmePages())

    assert {it.check for it in found.values() if it.holds is not Holds.YES} == {
        "clock"
    }  # the double's answers have no Date
    assert list(found) == [
        *("metadata", "metadata: issuer", "metadata: authorization_endpoint", "metadata: token_endpoint"),
        *(
            "metadata: userinfo_endpoint",
            "metadata: revocation_endpoint",
            "authorization request",
            "token endpoint",
            "client authentication",
        ),
        *("clock", "userinfo endpoint", "revocation"),
    ]


def test_a_wrong_client_secret_is_told_from_a_refused_token() -> None:
    acme = AcmePages()
    acme.run(acme.secrets.add("cab-provider-crm", b"not the secret"))

    def second_version(deployment: Deployment) -> Deployment:
        crm = deployment.connection_by_id["crm"]
        assert crm.client_secret is not None
        reference = crm.client_secret.model_copy(update={"version": 2})
        return replace(
            deployment, connections=tuple(it.model_copy(update={"client_secret": reference}) for it in (crm,))
        )

    acme.deployment = second_version(acme.deployment)
    found = findings(acme)["client authentication"]
    assert found.holds is Holds.NO
    assert "invalid_client" in found.says


def test_a_secret_that_is_not_there_is_said() -> None:
    acme = AcmePages()
    acme.secrets._secrets.clear()
    assert "not in Secret Manager" in findings(acme)["token endpoint"].says


def test_without_the_secret_client_authentication_is_not_tried_and_nothing_is_claimed() -> None:
    found = findings(AcmePages(), with_secret=False)
    assert found["client authentication"].holds is Holds.UNKNOWN
    assert found["token endpoint"].holds is Holds.YES


@pytest.mark.parametrize(
    ("changes", "check", "says"),
    [
        ({"token_endpoint": f"{CRM}/oauth/tokens"}, "token endpoint", "HTTP 404"),
        ({"token_endpoint": f"{CRM}/oauth/tokens"}, "metadata: token_endpoint", "another one"),
        ({"issuer": f"{CRM}/"}, "metadata: issuer", "another one"),
        ({"userinfo_endpoint": f"{CRM}/nowhere"}, "userinfo endpoint", "HTTP 404"),
        ({"token_endpoint": "https://elsewhere.test/token"}, "token endpoint", "no connection"),
    ],
)
def test_each_wrong_address_is_found_where_it_is(changes: dict[str, Any], check: str, says: str) -> None:
    found = findings(changed(**changes))[check]
    assert found.holds is Holds.NO
    assert says in found.says


def test_an_unregistered_redirect_uri_is_found() -> None:
    acme = AcmePages()
    broker = acme.deployment.broker.model_copy(update={"origin": "http://127.0.0.1:9999"})
    acme.deployment = replace(acme.deployment, broker=broker)
    found = findings(acme)["authorization request"]
    assert found.holds is Holds.NO
    assert "http://127.0.0.1:9999/connect/callback/crm" in found.says


def test_a_clock_that_is_wrong_is_found() -> None:
    acme = AcmePages()

    class Dated:
        def __getattr__(self, name: str) -> Any:
            send = getattr(acme.provider_http, name)

            async def sent(*arguments: Any, **named: Any) -> HttpAnswer:
                answer: HttpAnswer = await send(*arguments, **named)
                at = acme.clock.now() + timedelta(minutes=5)
                date = at.strftime("%a, %d %b %Y %H:%M:%S GMT")
                return HttpAnswer(answer.status, {**answer.headers, "date": date}, answer.body)

            return sent

    found = findings(acme, http=Dated())["clock"]
    assert (found.holds, found.says) == (Holds.NO, "300 s apart from this machine's")


async def test_why_there_is_no_answer_is_said_without_quoting_anything() -> None:
    client = AiohttpClient(["https://127.0.0.1:9", "http://127.0.0.1:9"], what="provider", allow_loopback_http=True)
    for url, words in (
        ("http://127.0.0.1:9/token", "the connection is refused or cannot be made"),
        ("https://other.test/token", "this address is not one that may be called"),
    ):
        with pytest.raises(SendFailed) as failed:
            await client.get(url, timeout_s=2)
        assert why_failed(failed.value) == words
    await client.close()


def test_the_command_says_what_does_not_hold_and_exits_with_1() -> None:
    environment = ENVIRONMENT | {"ACME_CRM_ORIGIN": "http://127.0.0.1:9"}  # nobody listens there
    result = CliRunner(env=environment).invoke(main, ["connection", "check", "crm", "--config", str(ACME), "--json"])

    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["redirect_uri"].endswith("/connect/callback/crm")
    assert {it["check"]: it["result"] for it in answer["checks"]}["token endpoint"] == "does not hold"


def test_the_command_names_the_connections_there_are() -> None:
    result = CliRunner(env=ENVIRONMENT).invoke(main, ["connection", "check", "cmr", "--config", str(ACME)])

    assert result.exit_code == 2
    assert "crm, tracker, warehouse" in result.output
