"""What is sent for an intent: all of it, nothing else, and never anywhere else (call-mode.md, section 3)."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cab.domain.calls.rendering import RenderedCall, render, repeats_safely
from cab.domain.configured.actions import Action
from cab.domain.configured.connections import Connection
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import Intent

BASE = "https://api.example.com/v1"
PARAMETERS = {
    "title": {"type": "string", "max_length": 40},
    "amount": {"type": "integer"},
    "urgent": {"type": "boolean", "default": False},
    "stage": {"type": "string", "required": True},
}
BODY = {"title": "{title}", "fields": {"amount": "{amount}", "urgent": "{urgent}"}, "list": ["{stage}", "fixed"]}


def action(call: dict[str, Any], *, effect: str = "write", parameters: dict[str, Any] | None = None) -> Action:
    content = {
        "id": "crm.deal.update",
        "title": "Change a deal",
        "effect": effect,
        "identifier": "deal/{id}",
        "parameters": PARAMETERS if parameters is None else parameters,
        "call": call,
    }
    return Action.model_validate_json(json.dumps(content))


def connection(of: Action) -> Connection:
    return Connection(
        id="crm", title="CRM", provider="p", resource=BASE, tenants=("acme",), client_id="cab", actions=(of,)
    )


def rendered(of: Action, parameters: dict[str, Any], identifier: str = "deal/d1") -> RenderedCall:
    intent = Intent(of, "crm", BASE, identifier, of.with_defaults(parameters), task_id=None, reason=None)
    return render(of, connection(of), intent)


IN_BODY = action({"method": "PATCH", "path": "/deals/{id}", "body": BODY})
IN_FORM = action(
    {
        "method": "POST",
        "path": "/deals/{id}/{stage}",
        "encoding": "form",
        "query": {"urgent": "{urgent}"},
        "body": {"title": "{title}", "amount": "{amount}", "kind": "deal"},
    }
)
IN_QUERY = action(
    {
        "method": "GET",
        "path": "/deals/{id}/{stage}",
        "query": {"title": "{title}", "amount": "{amount}", "urgent": "{urgent}", "limit": 50},
    },
    effect="read",
)
printable = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=40)
given_parameters = st.fixed_dictionaries(
    {"stage": printable.filter(lambda text: text.strip(".") and not {".", ".."} & set(re.split(r"[/\\;]", text)))},
    optional={"title": printable, "amount": st.integers(-(2**53) + 1, 2**53 - 1), "urgent": st.booleans()},
)
identifiers = st.from_regex(r"deal/(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,12}", fullmatch=True).filter(
    lambda text: text.removeprefix("deal/").strip(".") != ""
)
actions = st.sampled_from([IN_BODY, IN_FORM, IN_QUERY])


@given(of=actions, first=given_parameters, second=given_parameters, one=identifiers, other=identifiers)
def test_other_intents_are_other_requests_and_equal_ones_the_same(
    of: Action, first: dict[str, Any], second: dict[str, Any], one: str, other: str
) -> None:
    same = (one, of.with_defaults(first)) == (other, of.with_defaults(second))
    assert (rendered(of, first, one).digest == rendered(of, second, other).digest) is same
    assert rendered(of, first, one) == rendered(of, first, one)


@given(of=actions, parameters=given_parameters, identifier=identifiers)
def test_every_value_is_sent_and_the_address_stays_below_the_base(
    of: Action, parameters: dict[str, Any], identifier: str
) -> None:
    call = rendered(of, parameters, identifier)
    assert call.url.startswith(BASE + "/deals/")
    parts = urlsplit(call.url)
    segments = parts.path.removeprefix("/v1/").split("/")
    assert not {".", "..", ""} & {unquote(segment) for segment in segments}
    assert posixpath.normpath(unquote(parts.path)).startswith("/v1/deals/")
    sent = [unquote(segment) for segment in segments] + [value for _, value in parse_qsl(parts.query)]
    if call.content_type == "application/json":
        body = json.loads(call.body or b"")
        sent += [body.get("title"), *body["fields"].values(), *body["list"]]
    else:
        sent += [value for _, value in parse_qsl((call.body or b"").decode())]
    as_text = {value if isinstance(value, str) else json.dumps(value) for value in sent}
    for value in of.with_defaults(parameters).values():
        assert (value if isinstance(value, str) else json.dumps(value)) in as_text
    assert identifier.removeprefix("deal/") in as_text


@pytest.mark.parametrize("value", ["a/b", "%2e%2e", "a?b", "a#b", "a;b", "a\\b", "%2F", "a b", "v1..v2", ".x/..y/z."])
def test_a_value_in_the_path_is_one_segment_whatever_it_holds(value: str) -> None:
    call = rendered(IN_QUERY, {"stage": value})
    segments = urlsplit(call.url).path.split("/")
    assert segments[:4] == ["", "v1", "deals", "d1"]
    assert len(segments) == 5
    assert unquote(segments[4]) == value


@pytest.mark.parametrize(
    "value", ["../../../admin", "x/../../admin", "..\\admin", "x\\..", "./x", "..;/admin", "x;/..;"]
)
def test_a_value_in_the_path_leads_nowhere_else_where_a_server_decodes_it_first(value: str) -> None:
    """Python's own file server does, as does nginx before it passes a request on."""
    with pytest.raises(BrokerError) as refused:
        rendered(IN_QUERY, {"stage": value})
    assert refused.value.reason is Reason.INTENT_MALFORMED


@pytest.mark.parametrize("value", ["", ".", "..", "..."])
def test_dots_and_nothing_are_no_segment(value: str) -> None:
    with pytest.raises(BrokerError) as refused:
        rendered(IN_QUERY, {"stage": value})
    assert refused.value.reason is Reason.INTENT_MALFORMED


def test_absent_parameters_leave_no_trace() -> None:
    call = rendered(IN_BODY, {"stage": "won"})
    assert json.loads(call.body or b"") == {"fields": {"urgent": False}, "list": ["won", "fixed"]}
    assert rendered(IN_QUERY, {"stage": "won"}).url == f"{BASE}/deals/d1/won?urgent=false&limit=50"


def test_an_action_without_a_call_is_not_called() -> None:
    of = IN_BODY.model_copy(update={"call": None})
    with pytest.raises(BrokerError) as refused:
        rendered(of, {"stage": "won"})
    assert refused.value.reason is Reason.CALL_NOT_CONFIGURED


def test_reads_and_keyed_calls_repeat_safely() -> None:
    keyed = action({"method": "PATCH", "path": "/deals/{id}", "body": BODY, "idempotency_key": "Idempotency-Key"})
    assert [repeats_safely(of) for of in (IN_QUERY, keyed, IN_BODY)] == [True, True, False]


SOME = {"title": {"type": "string"}}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"method": "PATCH", "path": "/deals/{id}"}, "does not use"),
        ({"method": "PATCH", "path": "/deals", "body": {"title": "{title}"}}, "does not use"),
        ({"method": "PATCH", "path": "/deals/{id}", "body": {"a": "{title}", "b": "{other}"}}, "no parameter"),
        ({"method": "PATCH", "path": "/deals/{id}/{title}"}, "required or have a default"),
        ({"method": "PATCH", "path": "/deals/{id}", "body": ["{title}"]}, "required or have a default"),
        ({"method": "PATCH", "path": "/deals/x{id}", "body": "{title}"}, "whole segment"),
        ({"method": "PATCH", "path": "/deals/../{id}", "body": "{title}"}, "segments"),
        *(
            ({"method": "PATCH", "path": f"/{one}/{{id}}", "body": "{title}"}, "segments")
            for one in ("%2e%2E", "%2e", "a%2f..%2Fb", "..%5Cb")
        ),
        *(
            ({"method": "PATCH", "path": f"/{one}/{{id}}", "body": "{title}"}, "as it is sent")
            for one in ("a b", "größe", "a\r\nX-Y: z", "a\tb", "100%", "%zz", '"', "[a]")
        ),
        ({"method": "PATCH", "path": "deals/{id}", "body": "{title}"}, "pattern"),
        ({"method": "PATCH", "path": "/deals/{id}?x=1", "body": "{title}"}, "pattern"),
        ({"method": "GET", "path": "/deals/{id}", "query": {"t": "{title}"}}, "methods of actions that read"),
        ({"method": "PATCH", "path": "/deals/{id}", "body": {"t": "{title}", "n": 1.5}}, "whole"),
        ({"method": "PATCH", "path": "/deals/{id}", "body": {"t": ["{title}"]}, "encoding": "form"}, "plain values"),
    ],
)
def test_a_call_that_would_not_send_what_is_approved_is_no_configuration(call: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        action(call, parameters=SOME)


@pytest.mark.parametrize(
    "name", ["Authorization", "Cookie", "host", "X-Forwarded-For", "Proxy-Authorization", "a b", "DPoP"]
)
def test_a_catalog_sets_no_header_that_carries_rights_or_names_a_hop(name: str) -> None:
    for call in ({"headers": {name: "x"}}, {"idempotency_key": name}):
        with pytest.raises(ValidationError, match="cannot be set"):
            action({"method": "PATCH", "path": "/deals/{id}", "body": "{title}"} | call, parameters=SOME)


def test_a_header_of_the_catalog_is_one_line() -> None:
    with pytest.raises(ValidationError, match="one line"):
        action(
            {"method": "PATCH", "path": "/deals/{id}", "body": "{title}", "headers": {"X-A": "a\r\nb"}}, parameters=SOME
        )
