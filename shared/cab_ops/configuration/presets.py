"""From the presets as they are written, `providers.yaml`, to what a process reads of them."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import orjson

from cab.adapters.configuration.model_errors import validate
from cab.adapters.configuration.problems import ConfigurationRefused
from cab.adapters.configuration.yaml_tree import read_yaml
from cab.domain.configured.connections import Provider
from cab.domain.configured.model import StrictModel

_FILE: Final = "providers.yaml"


class _Presets(StrictModel):
    """cab/data/providers.yaml: what is known about well-known systems."""

    providers: tuple[Provider, ...]


def compiled_presets() -> bytes:
    """Raises: ConfigurationRefused with every mistake in the file."""
    tree, problems = read_yaml(_FILE, files("cab.data").joinpath(_FILE).read_bytes())
    if tree is not None:
        problems += validate(_Presets, tree)[1]
    if tree is None or problems:
        raise ConfigurationRefused(problems)
    return orjson.dumps(tree.value["providers"], option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
