# No `from __future__ import annotations` here: from 3.14 on annotations are then evaluated when somebody asks (PEP 649).
"""A tool shows its framework the arguments that a model gives, however the module keeps its annotations."""

import inspect
import typing

import pytest

from cab_client import Agent, AuthorizedClient, PrivateKeyJwt
from cab_client.testing import FakeBroker, new_key


def agent(fake: FakeBroker) -> Agent:
    return Agent(fake.origin, PrivateKeyJwt("sales-assistant", key=new_key()), connections=fake.connections)


def test_the_client_is_in_no_annotation_and_the_others_are(cab_fake: FakeBroker) -> None:
    @agent(cab_fake).tool("crm.note.create", on="crm", identifier="deal/{deal_id}", parameters=("text",))
    def add_note(
        deal_id: str, text: typing.Annotated[str, "what to note"], *, http: AuthorizedClient
    ) -> dict[str, str]:
        return {}

    hints = typing.get_type_hints(add_note, include_extras=True)
    assert hints == {"deal_id": str, "text": typing.Annotated[str, "what to note"], "return": dict[str, str]}
    assert list(inspect.signature(add_note, eval_str=True).parameters) == ["deal_id", "text"]
    assert inspect.get_annotations(add_note, eval_str=True) == hints


def test_a_type_that_is_not_there_is_a_mistake_when_the_tool_is_declared(cab_fake: FakeBroker) -> None:
    def late(deal_id: "Deal", *, http: AuthorizedClient) -> str:  # type: ignore[name-defined]  # noqa: F821
        return ""

    with pytest.raises(NameError):
        agent(cab_fake).tool("crm.deal.read", on="crm", identifier="deal/{deal_id}")(late)
