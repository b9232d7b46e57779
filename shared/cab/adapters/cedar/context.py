"""The context record of a decision, cut down to what the rules at hand read.

Building the record is most of what an evaluation costs: some microseconds for each member. A member that no condition
names cannot change what any of them says, so it is left out. The parameters are always there, all of them: they are the
agent's own words, and a request with one that Cedar cannot read is denied, whatever the rules look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from cab.adapters.cedar.rules import Rule
from cab.adapters.cedar.vocabulary import WEEKDAYS, paths_read
from cab.ports import PolicyRequest

# Attribute of the context: those of its members that are read; None when it is read as a whole.
ContextReads = Mapping[str, frozenset[str] | None]
_EVERYTHING: ContextReads = dict.fromkeys(("agent", "chain", "parameters", "task", "trigger", "auth", "time"))


def context_reads(rules: Iterable[Rule]) -> ContextReads:
    """What the rules read of the context, and the parameters."""
    reads: dict[str, frozenset[str] | None] = {"parameters": None}
    for variable, *path in (path for rule in rules for path in paths_read(rule)):
        if variable != "context":
            continue
        if not path:
            return _EVERYTHING
        name, members = path[0], path[1:2]
        before = reads.get(name, frozenset())
        reads[name] = before | frozenset(members) if members and before is not None else None
    return reads


def context_of(request: PolicyRequest, reads: ContextReads) -> str:
    """The record as JSON text, in the shape of `cedar_schema`. What is unknown is left out: Cedar has no null."""
    auth: dict[str, Any] = {"amr": request.amr}
    if request.auth_age_s is not None:
        auth["age_s"] = request.auth_age_s
    if request.acr is not None:
        auth["acr"] = request.acr
    record: dict[str, Any] = {
        "agent": {"id": request.agent, "trust_zone": request.trust_zone, "mode": request.mode},
        "chain": request.chain,
        "parameters": dict(request.parameters),
        "task": {"present": request.task_present, "comparison": request.task_comparison},
        "trigger": request.trigger,
        "auth": auth,
        "time": {
            "epoch_s": int(request.now.timestamp()),
            "hour_utc": request.now.hour,
            "weekday": WEEKDAYS[request.now.weekday()],
        },
    }
    return orjson.dumps({name: _members(record[name], members) for name, members in reads.items()}).decode()


def _members(value: Any, members: frozenset[str] | None) -> Any:
    return value if members is None else {name: value[name] for name in members if name in value}
