"""Google's own message classes, without importing Google's clients.

`import google.cloud.firestore_v1` runs a package that imports every client, transport (gRPC and REST) and helper of
the library: with Pub/Sub and Secret Manager 370 ms of CPU at each cold start beyond gRPC itself, of which the message
classes are 45 ms. The calls in `rpc` need only the classes. So the packages' `__init__` files are kept out while the modules that
define messages load. Their names are freed again at once: who imports the full client later, in the
same process, gets the whole package, made of these same classes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


def load(package: str, module: str) -> Any:
    """The module `PACKAGE.types.MODULE` of a generated Google library.

    Its classes are proto-plus ones; adapters use what `.pb()` of each gives, because building and reading the bare
    protobuf message costs a tenth.
    """
    with _without_init(package, f"{package}.types"):
        return importlib.import_module(f"{package}.types.{module}")


@contextmanager
def _without_init(*packages: str) -> Iterator[None]:
    """Inside the block, importing from these packages does not run their `__init__`. Parents before children."""
    stand_ins: list[tuple[str, ModuleType]] = []
    try:
        for name in packages:
            if name in sys.modules:  # the full client is there already: use it
                continue
            parent = importlib.import_module(name.rpartition(".")[0])
            spec = PathFinder.find_spec(name, parent.__path__)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(name=name)
            stand_in = ModuleType(name)
            stand_in.__path__ = spec.submodule_search_locations
            stand_in.__spec__ = spec
            sys.modules[name] = stand_in
            stand_ins.append((name, stand_in))
        yield
    finally:
        for name, stand_in in reversed(stand_ins):
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
