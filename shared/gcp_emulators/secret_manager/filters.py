"""The part of the list filter language that Secret Manager's own documentation uses: `FIELD:TEXT AND FIELD=TEXT`.

`:` on a name looks for a substring, otherwise the value must be equal; `labels.KEY:*` asks that the label exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import grpc

from gcp_emulators.wire.rpc import RpcError

_TERM = re.compile(r'(?P<field>[A-Za-z_][\w.-]*)\s*(?P<operator>[:=])\s*(?P<text>"[^"]*"|[^\s"]+)')


def parse_filter(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A predicate over an item's fields, labels given as `labels.KEY`. An empty filter matches everything.

    Raises: RpcError INVALID_ARGUMENT for anything but terms joined by AND.
    """
    terms = []
    for part in re.split(r"\s+AND\s+", text.strip()) if text.strip() else []:
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"The filter [{text}] is not valid.")
        terms.append((match["field"], match["operator"], match["text"].strip('"')))

    def matches(fields: Mapping[str, str]) -> bool:
        for field, operator, wanted in terms:
            value = fields.get(field)
            if value is None:
                return False
            is_substring = operator == ":" and field == "name" and wanted in value
            if not (is_substring or wanted in {value, "*"}):
                return False
        return True

    return matches
