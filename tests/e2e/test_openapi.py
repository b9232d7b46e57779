"""The running stack answers as its OpenAPI document says, whatever is sent: statuses, headers, media types, schemas."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.e2e.caller import Caller
from tests.running_stack import Stack

from cab.transport import openapi

pytestmark = pytest.mark.stack
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
bounded = hypothesis.settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


everything = schemathesis.openapi.from_dict(openapi.document("http://127.0.0.1"))
forms = everything.include(path_regex="^/oauth2/(token|introspect|revoke)$", method="POST")


def test_the_document_is_served_where_it_is_said_to_be(stack: Stack) -> None:
    answer = requests.get(f"{stack.file.origin}{openapi.PATH}", timeout=10)
    assert answer.json() == openapi.document(stack.file.origin)


@everything.parametrize()
@bounded
def test_every_answer_to_a_stranger_is_documented(case: Any, stack: Stack) -> None:
    case.call_and_validate(base_url=stack.file.origin, checks=CHECKS, timeout=10)


@forms.parametrize()
@bounded
def test_every_answer_to_a_known_agent_is_documented(case: Any, stack: Stack, assertions: list[str]) -> None:
    """As above, behind authentication: a good request in which one field is the generated one."""
    caller = Caller(stack)
    if not assertions:
        assertions.append(caller.assertion("alice"))
    good = caller.exchange_form(assertions[0], "crm.opportunity.read", "opportunity/0061") | {"token": assertions[0]}
    sent = (
        {name: value for name, value in case.body.items() if "client" not in name}
        if isinstance(case.body, dict)
        else {}
    )
    name = sorted(sent)[len(repr(sent)) % len(sent)] if sent else "scope"
    case.body = good | {name: sent.get(name, "")} | caller.client()
    case.headers = {}  # a generated proof would be the end of almost every request
    case.call_and_validate(base_url=stack.file.origin, checks=CHECKS, timeout=10)


@pytest.fixture
def assertions() -> list[str]:
    return []


def test_what_succeeds_is_documented_too(stack: Stack) -> None:
    """Generated requests seldom succeed, so each success is checked by hand."""
    caller = Caller(stack)
    document = requests.get(f"{stack.file.origin}{openapi.PATH}", timeout=10).json()

    def assert_fits(path: str, answer: requests.Response) -> dict[str, Any]:
        assert answer.status_code == 200
        schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator(schema | {"components": document["components"]}).validate(answer.json())
        body: dict[str, Any] = answer.json()
        return body

    origin = stack.file.origin
    minted = stack.front_end.mint_form(stack.front_end.id_token("alice"), agent="sales-assistant")
    assertion = assert_fits("/edge/token", requests.post(f"{origin}/edge/token", minted, timeout=10))["access_token"]
    for action, identifier in (
        ("crm.opportunity.read", "opportunity/0061"),
        ("warehouse.query.run", "query/acme_history"),
    ):
        token = assert_fits("/oauth2/token", caller.exchange(assertion, action, identifier).response)["access_token"]
        form = {"token": token, **caller.client()}
        active = assert_fits("/oauth2/introspect", requests.post(f"{origin}/oauth2/introspect", form, timeout=10))
        assert active["active"] is True
    delegation = {
        **caller.exchange_form(assertion, "crm.opportunity.read", "opportunity/0061"),
        "requested_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": stack.file.issuer,
        "may_act": "ops-bot",
    }
    for name in ("resource", "authorization_details"):
        del delegation[name]
    assert assert_fits("/oauth2/token", caller.post("/oauth2/token", delegation).response)["token_type"] == "N_A"
