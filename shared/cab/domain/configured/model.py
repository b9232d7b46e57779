"""The base of everything that is configured or declared."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Base of every configured or declared value: immutable, unknown members refused, input never quoted in errors."""

    model_config = ConfigDict(
        frozen=True,
        defer_build=True,  # at its first use: no process uses all of them
        extra="forbid",
        hide_input_in_errors=True,
        regex_engine="python-re",  # the patterns end in \Z, which the other engine does not know
    )
