"""Empty wheels: distributions that state what they need and hold nothing, for installers to choose among."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def write_wheel(folder: Path, name: str, version: str, requires: tuple[Requirement, ...]) -> str:
    """Write the wheel into the folder and return its hash, as requirements files name it."""
    stem = f"{canonicalize_name(name).replace('-', '_')}-{version}"
    extras = sorted({extra for requirement in requires for extra in _extras_in(requirement)})
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def next_version(version: str) -> str:
    """The smallest step up from it: what a maintainer publishes the week after."""
    release = Version(version).release
    return ".".join(map(str, (*release[:-1], release[-1] + 1)))


def _extras_in(requirement: Requirement) -> list[str]:
    marker = str(requirement.marker or "")
    return [part.split('"')[1] for part in marker.split("extra == ")[1:]]
