"""The provider presets that come with CAB. They are written, with their sources, in `providers.yaml`; a process reads
`providers.json`, which `cab config providers --compile` makes of it: to read and check the YAML took a thirtieth of what a
process does before it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import orjson

from cab.domain.configured.connections import Provider


@cache
def shipped_providers() -> Mapping[str, Mapping[str, Any]]:
    """By id, as plain values in the file's own keys, which were checked when it was made."""
    entries = orjson.loads(files("cab.data").joinpath("providers.json").read_bytes())
    return {entry["id"]: entry for entry in entries}


class Providers(Mapping[str, Provider]):
    """A deployment's own providers and the shipped ones, by id. Of these each is made when it is asked for: a deployment uses a few."""

    def __init__(self, own: Iterable[Provider]) -> None:
        self._made = {provider.id: provider for provider in own}

    def __getitem__(self, provider_id: str) -> Provider:
        if provider_id not in self._made:
            self._made[provider_id] = Provider.model_validate(shipped_providers()[provider_id])
        return self._made[provider_id]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*shipped_providers(), *self._made)))

    def __len__(self) -> int:
        return len(shipped_providers().keys() | self._made.keys())
