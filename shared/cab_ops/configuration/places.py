"""Where in a deployment's files something is configured: file and line, for commands that show the source of a decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cab.adapters.configuration.folder import read_folder
from cab.adapters.configuration.yaml_tree import YamlTree, read_yaml


class Places:
    """Lines of a folder that was loaded before, so its files are known to be readable and well formed."""

    def __init__(self, root: Path) -> None:
        self._trees = {name: read_yaml(name, data)[0] for name, data in read_folder(root).yaml.items()}

    def agent(self, client_id: str) -> tuple[str, int] | None:
        return self._listed("agents.yaml", ("agents",), "client_id", client_id)

    def connection(self, connection_id: str) -> tuple[str, int] | None:
        return self._listed("connections.yaml", ("connections",), "id", connection_id)

    def action(self, action_id: str) -> tuple[str, int] | None:
        tree = self._trees.get("connections.yaml")
        for position, _ in enumerate(_items(tree, ("connections",))):
            found = self._listed("connections.yaml", ("connections", position, "actions"), "id", action_id)
            if found:
                return found
        return None

    def rate_limit(self, position: str) -> tuple[str, int] | None:
        tree = self._trees.get("broker.yaml")
        return None if tree is None else (tree.file, tree.line(("rate_limits", int(position))))

    def identity_provider(self, position: int) -> tuple[str, range] | None:
        """The file, and the lines of the entry at this position."""
        tree = self._trees.get("identity_providers.yaml")
        if tree is None:
            return None
        entries = [tree.line(("identity_providers", it)) for it, _ in enumerate(_items(tree, ("identity_providers",)))]
        end = entries[position + 1] if position + 1 < len(entries) else 2**31
        return tree.file, range(entries[position], end)

    def _listed(self, file: str, place: tuple[str | int, ...], key: str, value: str) -> tuple[str, int] | None:
        tree = self._trees.get(file)
        for position, entry in enumerate(_items(tree, place)):
            if tree is not None and entry.get(key) == value:
                return tree.file, tree.line((*place, position, key))
        return None


def _items(tree: YamlTree | None, place: tuple[str | int, ...]) -> list[dict[str, Any]]:
    value: Any = tree.value if tree else None
    for step in place:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return []
    return [item if isinstance(item, dict) else {} for item in value] if isinstance(value, list) else []
