"""Catalog entries as YAML to paste under `actions` of a connection, with what a reviewer should know above each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from cab_ops.catalog.documents import shown

_WIDTH = 140
_ONE_LINE = 110  # longer collections get a line for each member


class _Dumper(yaml.SafeDumper):
    """Without anchors: configuration files refuse them."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:  # noqa: FBT001 - as in PyYAML
        node = super().represent_mapping(tag, mapping, flow_style)
        if sum(len(f"{name}: {value}, ") for name, value in getattr(mapping, "items", lambda: mapping)()) > _ONE_LINE:
            node.flow_style = False
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


def entries_text(entries: Iterable[tuple[dict[str, Any], Iterable[str]]], *, about: Iterable[str]) -> str:
    """The entries, each with its notes as comments; `about` comes first. Nothing of a vendor can leave its line."""
    lines = [f"# {shown(line, limit=400)}" for line in about]
    for action, notes in entries:
        lines.append("")
        lines += [f"# {shown(note, limit=400)}" for note in notes]
        text = yaml.dump(
            [action], Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=_WIDTH, allow_unicode=True
        )
        lines += text.rstrip("\n").split("\n")
    return "\n".join(f"      {line}".rstrip() for line in lines) + "\n"
