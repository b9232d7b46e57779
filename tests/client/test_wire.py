"""What the client sends is what docs/api.md says with a plain OAuth library: the same parameters with the same values."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import jwt
import pytest
import requests
from requests_oauth2client import OAuth2Client, PrivateKeyJwt

import cab_client
from cab_client import Agent, FrontEnd, Intent, Task
from cab_client.testing import FakeBroker, new_key

ORIGIN = "https://cab.fake"
ISSUER = f"{ORIGIN}/oauth2"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
KEY = {**new_key(), "kid": "k1"}
TASK = Task(task_id="t-81", actions=("crm.opportunity.*",), identifiers=("opportunity/*",))
INTENT = Intent("crm.note.create", on="crm", identifier="opportunity/0061", parameters={"text": "héllo & more"})
ASSERTION = "aa.bb.cc"


class Recorder(requests.adapters.BaseAdapter):
    """Takes down one request of the plain library."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bytes]] = []

    def send(self, request: Any, *_: Any, **__: Any) -> requests.Response:
        body = request.body
        self.seen.append((request.url, body.encode() if isinstance(body, str) else body))
        answer = requests.Response()
        answer.status_code = 200
        answer._content = b'{"access_token": "x", "token_type": "Bearer", "expires_in": 9}'
        answer.headers["Content-Type"] = "application/json"
        return answer

    def close(self) -> None: ...


class RecordingBroker(FakeBroker):
    def __init__(self, origin: str = ORIGIN) -> None:
        super().__init__(origin)
        self.seen: list[tuple[str, bytes]] = []

    def _handle(self, request: Any) -> Any:
        self.seen.append((str(request.url), request.content))
        return super()._handle(request)


def plain(issuer: str) -> tuple[OAuth2Client, Recorder]:
    session, recorder = requests.Session(), Recorder()
    session.mount("https://", recorder)
    auth = PrivateKeyJwt("sales-assistant", KEY, alg="ES256", aud=issuer)
    return OAuth2Client(f"{issuer}/token", auth, session=session), recorder


def compared(seen: tuple[str, bytes]) -> Any:
    """Address and parameters; of the client assertion its shape, since it is another one each time."""
    url, body = seen
    form: dict[str, Any] = dict(parse_qsl(body.decode(), strict_parsing=True, keep_blank_values=True))
    assertion = form.pop("client_assertion")
    claims = jwt.decode(assertion, options={"verify_signature": False})
    header = jwt.get_unverified_header(assertion)
    form["client"] = (claims["iss"], claims["sub"], claims["aud"], header["alg"], header["kid"])
    form.pop("client_id", None)  # optional: the server goes by the assertion's own
    if "authorization_details" in form:
        form["authorization_details"] = [
            {name: value for name, value in detail.items() if value != {}}  # no parameters, said or left out
            for detail in json.loads(form["authorization_details"])
        ]
    return url, form


def sent_by(call: Any, origin: str = ORIGIN) -> Any:
    """What a call of the client's sends, which gets a refusal for an answer."""
    with RecordingBroker(origin).installed() as broker, pytest.raises(cab_client.CabError):
        call()
    return compared(broker.seen[-1])


def test_minting_is_the_same() -> None:
    library, recorder = plain(f"{ORIGIN}/edge")
    library.token_exchange(
        subject_token="id",
        subject_token_type=ID_TOKEN,
        requested_token_type=JWT,
        audience=ISSUER,
        may_act="sales-assistant",
        authorization_details=json.dumps([TASK.to_dict()]),
    )
    front_end = FrontEnd(ORIGIN, cab_client.PrivateKeyJwt("sales-assistant", key=KEY))
    assert sent_by(lambda: front_end.mint("id", may_act="sales-assistant", task=TASK)) == compared(recorder.seen[0])


@pytest.mark.parametrize("deferred", [False, True])
def test_exchanging_is_the_same(*, deferred: bool) -> None:
    more: dict[str, Any] = {"completion_mode": "deferred"} if deferred else {}
    library, recorder = plain(ISSUER)
    library.token_exchange(
        subject_token=ASSERTION,
        subject_token_type=JWT,
        resource="https://crm.fake",
        authorization_details=json.dumps(
            [
                {
                    "type": "cab_action",
                    "actions": ["crm.note.create"],
                    "locations": ["https://crm.fake"],
                    "identifier": "opportunity/0061",
                    "parameters": {"text": "héllo & more"},
                }
            ]
        ),
        **more,
    )
    agent = Agent(
        ORIGIN,
        cab_client.PrivateKeyJwt("sales-assistant", key=KEY),
        connections={"crm": "https://crm.fake"},
    )
    sent = sent_by(lambda: agent.permit(INTENT, assertion=ASSERTION, deferred=deferred))
    assert sent == compared(recorder.seen[0])


def test_redeeming_is_the_same() -> None:
    library, recorder = plain(ISSUER)
    library.token_request({"grant_type": "urn:ietf:params:oauth:grant-type:deferred", "deferral_code": "c"})
    agent = Agent(ORIGIN, cab_client.PrivateKeyJwt("sales-assistant", key=KEY))
    kept = json.dumps({"deferral_code": "c", "intent": None, "uri": None, "until": None, "interval": 1} | {
        "reason_code": "authorization_pending", "txn": None})  # fmt: skip
    assert sent_by(lambda: agent.pending(kept).wait(1)) == compared(recorder.seen[0])


def test_every_client_assertion_is_new_short_and_for_one_issuer() -> None:
    with RecordingBroker().installed() as broker:
        broker.down = 2
        agent = Agent(
            ORIGIN,
            cab_client.PrivateKeyJwt("sales-assistant", key=KEY),
            connections={"crm": "https://crm.fake"},
        )
        with pytest.raises(cab_client.CabError):
            agent.permit(INTENT, assertion=ASSERTION)
    sent = [dict(parse_qsl(body.decode()))["client_assertion"] for _, body in broker.seen]
    claims = [jwt.decode(one, options={"verify_signature": False}) for one in sent]
    assert len({one["jti"] for one in claims}) == len(sent) == 3
    assert all(one["aud"] == ISSUER and one["exp"] - one["iat"] == 60 for one in claims)
