"""Catalog entries that come with CAB for much used systems: read with their sources, offered to be pasted and reviewed."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from pydantic import Field

from cab.adapters.configuration.problems import ConfigurationRefused
from cab.adapters.configuration.yaml_tree import read_yaml
from cab.domain.configured.actions import Action
from cab.domain.configured.model import StrictModel
from cab_ops.catalog.openapi import Entry, prefix_of

Sentence = Annotated[str, Field(min_length=1, max_length=300)]


class ReadyEntry(StrictModel):
    """One action, where its facts were read, and what is not known about it."""

    source: Sentence
    unknown: tuple[Sentence, ...] = ()
    action: Action


class ReadyCatalog(StrictModel):
    """The actions of one system. `provider` is the preset it is connected with, `api_base` the form of its addresses."""

    provider: str
    title: str
    api_base: str
    notes: tuple[Sentence, ...]
    entries: tuple[ReadyEntry, ...]


@cache
def ready_catalogs() -> dict[str, tuple[ReadyCatalog, list[dict[str, Any]]]]:
    """Every catalog by name, with its actions as the plain values that are in the file."""
    found = {}
    for file in sorted(files("cab_ops.catalog").joinpath("ready").iterdir(), key=lambda one: one.name):
        name = file.name.removesuffix(".yaml")
        tree, problems = read_yaml(file.name, file.read_bytes())
        if tree is None or problems:
            raise ConfigurationRefused(problems)
        found[name] = (ReadyCatalog.model_validate(tree.value), [entry["action"] for entry in tree.value["entries"]])
    return found


def ready_entries(name: str, *, connection: str, chosen: tuple[str, ...]) -> list[Entry]:
    """The catalog's entries with ids that begin with the connection's; `chosen` by id as written in the catalog, none: all.

    Raises: KeyError with what is not there.
    """
    catalog, actions = ready_catalogs()[name]
    known = {
        action["id"]: Entry(_renamed(action, connection), _notes(entry))
        for entry, action in zip(catalog.entries, actions, strict=True)
    }
    return [known[action_id] for action_id in chosen or known]


def _renamed(action: dict[str, Any], connection: str) -> dict[str, Any]:
    return {**action, "id": f"{prefix_of(connection)}.{action['id'].partition('.')[2]}"}


def _notes(entry: ReadyEntry) -> list[str]:
    return [f"Read in: {entry.source}", *(f"Not known: {sentence}" for sentence in entry.unknown)]
