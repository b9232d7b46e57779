"""docs/call-mode.md does what it says: its program is run as it stands there."""

from __future__ import annotations

import functools
import re
from typing import Any

import httpx2
import pytest
from tests.support.calling import call_token, platform_at
from tests.support.functions import ROOT
from tests.support.web import json_answer
from tests.support.world import ORIGIN, WAREHOUSE, World

from cab.domain.errors import Reason

DOCUMENT = (ROOT / "docs" / "call-mode.md").read_text("utf-8")


async def test_the_program_lists_tools_and_reads_a_result(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 12
    platform_at(world, WAREHOUSE, json_answer({"rows": ["0061"]}))
    token = await call_token(world)
    in_process = httpx2.ASGITransport(app=world.function("call_tool"))
    monkeypatch.setattr(httpx2, "AsyncClient", functools.partial(httpx2.AsyncClient, transport=in_process))
    names: dict[str, Any] = {}
    exec(compile(program, "docs/call-mode.md", "exec"), names)  # noqa: S102
    await names["main"](ORIGIN, token)
    listed, result = capsys.readouterr().out.splitlines()
    assert "'warehouse_query_run'" in listed
    assert result == "{'rows': ['0061']}"


def test_every_reason_it_names_is_one() -> None:
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", DOCUMENT))
    reasons = {reason.value for reason in Reason}
    told = {"call_outcome_unknown", "response_too_large", "tool_unknown", "call_already_attempted", "call_id_reused"}
    assert told <= named & reasons
