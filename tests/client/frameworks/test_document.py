"""The framework examples of docs/client.md run as they stand, with scripted models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.client.frameworks.test_langchain import Scripted, calling
from tests.client.test_resource import fetching

from cab_client import Agent, ClientSecret, Intent
from cab_client.testing import FakeBroker, new_key

pytest.importorskip("langchain")
pytest.importorskip("pydantic_ai")

from langchain_core.messages import AIMessage
from pydantic_ai.messages import ToolCallPart
from tests.client.frameworks.test_pydantic_ai import scripted

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "client.md").read_text("utf-8")
AGENT = next(text for text in re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S) if "def delete_deal" in text)
MODELS: dict[str, Any] = {
    "langchain": Scripted(messages=iter([calling("delete_deal", deal_id="0061"), AIMessage(content="Done.")])),
    "pydantic_ai": scripted(ToolCallPart("delete_deal", {"deal_id": "0061"})),
}


@pytest.mark.parametrize("framework", MODELS)
def test_the_example_pauses_with_the_link(
    fake: FakeBroker, framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.json").write_text(json.dumps(new_key()))
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(rf"^```python {framework}\n(.*?)^```$", TEXT, re.M | re.S)
    names: dict[str, Any] = {"model": MODELS[framework], "assertion": fake.user("alice")}
    exec("from cab_client import PrivateKeyJwt", names)  # noqa: S102
    for code in (AGENT, example):
        exec(compile(code, "docs/client.md", "exec"), names)  # noqa: S102
    assert names["link"].startswith("https://cab.acme.example/approvals/")
    fake.approve(names["link"], user="alice")


async def test_the_fastapi_example_lets_in_what_was_declared(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    from cab_client.fastapi import CabRoutes

    (example,) = re.findall(r"^```python fastapi\n(.*?)^```$", TEXT, re.M | re.S)
    defaults = CabRoutes.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "fetch", fetching(fake))
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(example, "docs/client.md", "exec"), names)  # noqa: S102
    crm = "https://crm.acme.example"
    agent = Agent("https://cab.acme.example", ClientSecret("sales-assistant", "s"), connections={"crm": crm})
    note = Intent("crm.note.create", on="crm", identifier="opportunity/0061", parameters={"text": "hello"})
    permit = agent.permit(note, assertion=fake.user("alice"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(names["app"]), base_url=crm) as client:
        made = await client.post("/opportunities/0061/notes", json={"text": "hello"}, headers=permit.headers())
        assert made.json() == "sales-assistant notes hello for alice"
        other = await client.post("/opportunities/0061/notes", json={"text": "bye"}, headers=permit.headers())
        assert other.status_code == 403
        assert (await client.get("/health")).json() == "well"
