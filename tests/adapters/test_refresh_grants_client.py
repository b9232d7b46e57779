"""How exchange_token hears refresh_grants: its refusals passed on, its troubles taken as ours."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.grants.virtual_time import in_virtual_time

from cab.adapters.refresh_grants_client import MOST_KEPT_OPEN, RefreshGrantsClient
from cab.domain.errors import BrokerError, Reason
from cab.domain.identifiers import token_sha256
from cab.encoding import two_parts
from cab.ports import AccessToken, AnswerTooLarge, ForetoldToken, HttpAnswer, SendFailed, Unavailable
from cab.use_cases.audit.waits import collected_in
from cab_dev.fakes.service_tokens import InMemoryServiceTokens

URL = "https://refresh-grants.test"
GOOD = {
    "access_token": "secret-of-crm",
    "expires_at": "2026-11-21T13:00:00+00:00",
    "scopes": ["deal.read"],
    "narrowed": True,
    "grant_id": "g1",
    "seq": 7,
    "secret_version": 9,
    "outcome": "cached",
}


class Host:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.sent: list[tuple[str, Any, dict[str, str]]] = []

    async def post_json(self, url: str, document: Any, *, headers: Any = None, **_: Any) -> HttpAnswer:
        self.sent.append((url, document, headers))
        if isinstance(self.answer, Exception):
            raise self.answer
        assert isinstance(self.answer, HttpAnswer)
        return self.answer

    async def get(self, *_: Any, **__: Any) -> HttpAnswer:
        raise AssertionError("refresh_grants is only ever posted to")

    post_form = get


def answer(status: int, document: Any, **headers: str) -> HttpAnswer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return HttpAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def client(host: Host, identity: InMemoryServiceTokens | None = None) -> RefreshGrantsClient:
    return RefreshGrantsClient(URL, host, identity or InMemoryServiceTokens("exchange-token@x"))


async def ask(reply: Any) -> AccessToken:
    return await client(Host(reply)).access_token(
        subject_assertion="assertion", connection="crm", scopes=("deal.read",), txn="t-1"
    )


async def test_a_token_comes_back_with_all_its_facts() -> None:
    host = Host(answer(200, GOOD))
    token = await client(host).access_token(
        subject_assertion="assertion", connection="crm", scopes=("deal.read",), txn="t-1"
    )
    assert token == AccessToken(
        access_token="secret-of-crm",
        expires_at=datetime(2026, 11, 21, 13, 0, tzinfo=UTC),
        scopes=("deal.read",),
        narrowed=True,
        grant_id="g1",
        seq=7,
        secret_version=9,
        outcome="cached",
    )
    assert "secret-of-crm" not in repr(token)
    ((url, document, headers),) = host.sent
    assert url == f"{URL}/grants/token"
    assert document == {
        "subject_assertion": "assertion",
        "connection": "crm",
        "scopes": ["deal.read"],
        "txn": "t-1",
    }
    assert headers == {"Authorization": f"Bearer token of exchange-token@x for {URL}"}


async def test_a_token_may_have_no_known_end() -> None:
    assert (await ask(answer(200, GOOD | {"expires_at": None}))).expires_at is None


@pytest.mark.parametrize(
    "reason",
    [Reason.GRANT_MISSING, Reason.GRANT_NEEDS_REAUTH, Reason.GRANT_REVOKED, Reason.SCOPE_NOT_GRANTABLE],
)
async def test_a_refusal_is_passed_on_with_its_remedy(reason: Reason) -> None:
    body = {"error": "x", "reason_code": reason.value, "interaction_uri": "https://cab.test/connect?connection=crm"}
    with pytest.raises(BrokerError) as refused:
        await ask(answer(400, body))
    assert refused.value.reason is reason
    assert refused.value.remedy.interaction_uri == "https://cab.test/connect?connection=crm"


async def test_a_provider_that_is_away_says_when_to_come_back() -> None:
    with pytest.raises(BrokerError) as refused:
        await ask(answer(503, {"reason_code": "provider_unavailable"}, retry_after="17"))
    assert (refused.value.reason, refused.value.remedy.retry_after_s) == (Reason.PROVIDER_UNAVAILABLE, 17)


@pytest.mark.parametrize("retry_after", ["", "soon", "-1", "²", "Fri, 31 Dec 1999 23:59:59 GMT"])
async def test_a_retry_time_nobody_can_read_is_left_out(retry_after: str) -> None:
    with pytest.raises(BrokerError) as refused:
        await ask(answer(503, {"reason_code": "provider_unavailable"}, retry_after=retry_after))
    assert refused.value.remedy.retry_after_s is None


OUR_TROUBLE: dict[str, Any] = {
    "it does not know us": answer(401, {"reason_code": "client_authentication_failed"}),
    "the platform does not know us": answer(403, b"<html>Forbidden</html>"),
    "a bug there": answer(500, {"reason_code": "internal_error"}),
    "a crash there": answer(500, b"Internal Server Error"),
    "a gateway between": answer(502, b"<html>"),
    "a reason nobody knows": answer(400, {"reason_code": "something_new"}),
    "no reason": answer(400, {"error": "x"}),
    "a reason that is no text": answer(400, {"reason_code": ["x"]}),
    "an array": answer(200, []),
    "no JSON": answer(200, b"x"),
    "nothing": answer(200, b""),
    "a repeated member": answer(200, b'{"access_token":"a","access_token":"b"}'),
    "a token without facts": answer(200, {"access_token": "a"}),
    "a time nobody can read": answer(200, GOOD | {"expires_at": "tomorrow"}),
    "too much": AnswerTooLarge(),
    "no connection": SendFailed("grants", may_have_arrived=False),
    "a broken connection": SendFailed("grants", may_have_arrived=True),
}


@pytest.mark.parametrize("reply", OUR_TROUBLE.values(), ids=OUR_TROUBLE.keys())
async def test_everything_else_is_an_outage_of_ours_never_the_callers_fault(reply: Any) -> None:
    with pytest.raises(Unavailable):
        await ask(reply)


async def test_without_an_identity_of_our_own_nothing_is_sent() -> None:
    identity, host = InMemoryServiceTokens("x"), Host(answer(200, GOOD))
    identity.is_down = True
    with pytest.raises(Unavailable):
        await client(host, identity).access_token(subject_assertion="a", connection="crm", scopes=(), txn="t")
    assert host.sent == []


@pytest.mark.parametrize(("upstream", "confirmed"), [([True], True), ([False], False), ([None], False), ([], False)])
async def test_a_revocation_tells_whether_upstream_confirmed(upstream: list[bool | None], confirmed: bool) -> None:
    host = Host(
        answer(200, {"revoked": [{"grant_id": "g", "connection": "crm", "upstream": item} for item in upstream]})
    )
    assert await client(host).revoke(grant_id="g", cause="user", txn="t") is confirmed
    assert host.sent[0][1] == {"grant_id": "g", "cause": "user", "txn": "t"}


# --- in two parts ---

NAME_OF_TOKEN = token_sha256("secret-of-crm")
FORETOLD = {name: value for name, value in GOOD.items() if name not in ("access_token", "outcome")} | {
    "token_sha256": NAME_OF_TOKEN
}
IN_PARTS = {"content_type": two_parts.MEDIA_TYPE}


class HostInParts(Host):
    """Says the first line, and then answers."""

    def __init__(self, first: bytes, last: Any) -> None:
        super().__init__(last)
        self.first = first

    async def post_json(self, url: str, document: Any, *, headers: Any = None, **options: Any) -> HttpAnswer:
        options["first_line"](self.first.rstrip(b"\n"))
        return await super().post_json(url, document, headers=headers)


def last(status: int, document: Any, retry_after_s: int | None = None) -> HttpAnswer:
    line = two_parts.last(json.dumps(document).encode(), status=status, retry_after_s=retry_after_s)
    return answer(200, b"{}\n" + line, **IN_PARTS)


async def ask_foretelling(host: Host) -> tuple[list[ForetoldToken], AccessToken]:
    foretold: list[ForetoldToken] = []
    token = await client(host).access_token(
        subject_assertion="assertion", connection="crm", scopes=("deal.read",), txn="t-1", foretell=foretold.append
    )
    return foretold, token


async def test_a_token_is_foretold_with_all_its_facts_and_comes_with_the_last_part() -> None:
    host = HostInParts(two_parts.first(FORETOLD | {"waited_ms": {"provider": 20.5}}), last(200, GOOD))
    waited: dict[str, float] = {}
    with collected_in(waited):
        foretold, token = await ask_foretelling(host)
    assert foretold == [token.foretold()]
    assert token.access_token == "secret-of-crm"
    assert waited == {"provider": 20.5}
    assert host.sent[0][2]["Accept"] == two_parts.ACCEPT


async def test_what_was_waited_for_is_not_counted_twice() -> None:
    said = {"waited_ms": {"provider": 20.5}}
    waited: dict[str, float] = {}
    with collected_in(waited):
        await ask_foretelling(HostInParts(two_parts.first(FORETOLD | said), last(200, GOOD | said)))
        assert waited == {"provider": 20.5}
        await ask_foretelling(HostInParts(b"", answer(200, GOOD | said)))
    assert waited == {"provider": 41.0}


async def test_a_refresh_grants_of_before_answers_in_one_part() -> None:
    foretold, token = await ask_foretelling(HostInParts(b"", answer(200, GOOD)))
    assert (foretold, token.access_token) == ([], "secret-of-crm")


async def test_a_refusal_in_the_last_part_is_one_like_any_other() -> None:
    first = two_parts.first(FORETOLD)
    body = {"reason_code": "grant_revoked", "interaction_uri": "https://cab.test/connect?connection=crm"}
    with pytest.raises(BrokerError) as refused:
        await ask_foretelling(HostInParts(first, last(400, body)))
    assert refused.value.reason is Reason.GRANT_REVOKED
    assert refused.value.remedy.interaction_uri == "https://cab.test/connect?connection=crm"
    with pytest.raises(BrokerError) as refused:
        await ask_foretelling(HostInParts(first, last(503, {"reason_code": "store_unavailable"}, 17)))
    assert (refused.value.reason, refused.value.remedy.retry_after_s) == (Reason.STORE_UNAVAILABLE, 17)
    with pytest.raises(Unavailable):
        await ask_foretelling(HostInParts(first, last(500, {"reason_code": "internal_error"})))


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"<html>",
        b"[]",
        two_parts.first({"token_sha256": NAME_OF_TOKEN}),
        two_parts.first(FORETOLD | {"token_sha256": "x"}),
        two_parts.first(FORETOLD | {"token_sha256": None}),
        two_parts.first(FORETOLD | {"expires_at": "tomorrow"}),
        two_parts.first(FORETOLD | {"scopes": 1}),
    ],
)
async def test_a_first_line_that_nobody_can_read_foretells_nothing(first: bytes) -> None:
    assert (await ask_foretelling(HostInParts(first, last(200, GOOD))))[0] == []


LAST_TROUBLE: dict[str, Any] = {
    "cut off": answer(200, b"{}\n{", **IN_PARTS),
    "none": answer(200, b"{}\n", **IN_PARTS),
    "a token without facts": last(200, {"access_token": "a"}),
    "of what is no success": replace(last(200, GOOD), status=500),
    "a broken connection": SendFailed("grants", may_have_arrived=True),
    "too much": AnswerTooLarge(),
}


@pytest.mark.parametrize("reply", LAST_TROUBLE.values(), ids=LAST_TROUBLE.keys())
async def test_without_a_whole_last_part_there_is_no_token(reply: Any) -> None:
    with pytest.raises(Unavailable):
        await ask_foretelling(HostInParts(two_parts.first(FORETOLD), reply))


class SlowHost(Host):
    """Answers after `seconds`. `answered` counts the requests that were still listened to by then."""

    def __init__(self, seconds: float) -> None:
        super().__init__(answer(200, GOOD))
        self._seconds = seconds
        self.answered = 0

    async def post_json(self, url: str, document: Any, *, headers: Any = None, **options: Any) -> HttpAnswer:
        async with asyncio.timeout(options["timeout_s"]):
            await asyncio.sleep(self._seconds)
        self.answered += 1
        return await super().post_json(url, document, headers=headers)


async def ask_in_vain(asking: RefreshGrantsClient) -> float:
    """After how many seconds the caller was told to come back."""
    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await asking.access_token(subject_assertion="assertion", connection="crm", scopes=(), txn="t-1")
    return asyncio.get_running_loop().time() - started


@in_virtual_time
async def test_while_refresh_grants_listens_to_a_slow_provider_the_line_stays_open_and_the_caller_is_answered() -> None:
    host = SlowHost(28)
    assert await ask_in_vain(client(host)) < 12
    await asyncio.sleep(17)
    assert host.answered == 1


@in_virtual_time
async def test_the_line_stays_open_when_the_caller_has_left() -> None:
    host = SlowHost(28)
    asking = asyncio.create_task(ask_in_vain(client(host)))
    await asyncio.sleep(1)
    asking.cancel()
    await asyncio.sleep(28)
    assert host.answered == 1


@in_virtual_time
async def test_no_line_stays_open_for_ever() -> None:
    host = SlowHost(60)
    await ask_in_vain(client(host))
    await asyncio.sleep(60)
    assert host.answered == 0


@in_virtual_time
async def test_of_many_lines_at_which_nobody_waits_only_some_stay_open() -> None:
    host = SlowHost(28)
    asking = client(host)
    assert max(await asyncio.gather(*(ask_in_vain(asking) for _ in range(100)))) < 12
    await asyncio.sleep(20)
    assert host.answered == MOST_KEPT_OPEN
    assert await ask_in_vain(asking) < 12
    await asyncio.sleep(20)
    assert host.answered == MOST_KEPT_OPEN + 1
