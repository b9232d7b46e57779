"""Requirements files as installers read them, and whether they leave anything open."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PLATFORMS = {  # as uv names them
    "x86_64-manylinux_2_28": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "aarch64-manylinux_2_28": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    "aarch64-apple-darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}


@dataclass(frozen=True)
class Declared:
    """What an installed distribution says of itself."""

    version: str
    requires: tuple[Requirement, ...]


@dataclass(frozen=True)
class Machine:
    """A Python on a platform, as markers see it."""

    python: str
    platform: Mapping[str, str]

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform['sys_platform']} {self.platform['platform_machine']}"

    def wants(self, requirement: Requirement, extras: frozenset[str]) -> bool:
        """Whether the requirement holds here, for a distribution that was asked for with these extras."""
        full = {"python_full_version": f"{self.python}.0", "implementation_version": f"{self.python}.0"}
        here = {"python_version": self.python, **full, **self.platform}
        marker = requirement.marker
        return marker is None or any(marker.evaluate({**here, "extra": extra}) for extra in ("", *extras))


def machines(pythons: tuple[str, ...], platforms: tuple[str, ...]) -> list[Machine]:
    """Each of these Pythons ("3.11") on each of these platforms, which are named as uv names them."""
    return [Machine(python, _PLATFORMS[platform]) for python in pythons for platform in platforms]


def read_lock(text: str) -> list[Requirement]:
    """The pins of a requirements file, hashes left out."""
    return _requirements(re.sub(r"\\\n|--hash=\S+", " ", text))


def entries(text: str) -> list[str]:
    """The pins of a requirements file as they stand there, each with its hashes."""
    return re.findall(r"^\S.*?(?=^\S|\Z)", text, flags=re.MULTILINE | re.DOTALL)


def read_input(path: Path) -> list[Requirement]:
    """What a lock is made from: the dependencies in pyproject.toml, or the lines of an .in file."""
    text = path.read_text("utf-8")
    if path.suffix == ".toml":
        return [Requirement(line) for line in tomllib.loads(text)["project"]["dependencies"]]
    return _requirements(text)


def installed(environment: Path | None = None) -> dict[str, Declared]:
    """By normalised name: the distributions of the environment in that folder, or of the running one."""
    where: dict[str, Any] = (
        {} if environment is None else {"path": [str(path) for path in environment.glob("lib/*/site-packages")]}
    )
    return {
        canonicalize_name(found.name): Declared(found.version, tuple(map(Requirement, found.requires or ())))
        for found in distributions(**where)
    }


def gaps(
    pins: list[Requirement],
    inputs: Mapping[str, list[Requirement]],
    declared: Mapping[str, Declared],
    on: list[Machine],
) -> list[str]:
    """Whatever an installer would have to decide by itself, one sentence each; empty for a closed lock.

    `inputs` are the requirements that the lock was made from, by the file that states them. Whatever these need on
    any of the machines, directly or not, must be pinned, under its bare name and each name with extras that it is asked
    for by: pip keeps them apart. A pin that nothing needs is a gap in the other direction.
    """
    walks = [_Walk(pins, declared, machine) for machine in on]
    for walk in walks:
        for file, requirements in inputs.items():
            walk.follow(file, requirements, frozenset())
    unneeded = [
        f"Nothing needs {_spelled(pin)}."
        for pin in pins
        if any(machine.wants(pin, frozenset()) for machine in on) and not any(walk.needs(pin) for walk in walks)
    ]
    found: dict[str, Machine] = {}
    for walk in walks:
        for gap in walk.found:
            found.setdefault(gap, walk.machine)
    return sorted([f"{gap} ({machine})" for gap, machine in found.items()] + unneeded)


@dataclass
class _Walk:
    """What one machine needs, from the inputs on."""

    pins: list[Requirement]
    declared: Mapping[str, Declared]
    machine: Machine
    found: list[str] = field(default_factory=list)
    reached: dict[str, frozenset[str]] = field(default_factory=dict)

    def follow(
        self, who: str, requirements: list[Requirement] | tuple[Requirement, ...], extras: frozenset[str]
    ) -> None:
        for requirement in requirements:
            if self.machine.wants(requirement, extras):
                self._pinned(who, requirement)

    def needs(self, pin: Requirement) -> bool:
        reached = self.reached.get(canonicalize_name(pin.name))
        return reached is not None and reached >= _names(pin)

    def _pinned(self, who: str, requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        lines = [
            pin for pin in self.pins if canonicalize_name(pin.name) == name and self.machine.wants(pin, frozenset())
        ]
        for names in {frozenset(), frozenset(_names(requirement))}:
            if not any(_names(pin) == names for pin in lines):
                self.found.append(f"{who} needs {_spelled(requirement, names)}, which is not pinned.")
        versions = {str(pin.specifier) for pin in lines}
        if len(versions) > 1:
            self.found.append(f"{name} is pinned as {' and as '.join(sorted(versions))}.")
        for version in versions:
            if not requirement.specifier.contains(version.removeprefix("=="), prereleases=True):
                self.found.append(f"{who} needs {_spelled(requirement)}, but {name}{version} is pinned.")
        if lines:
            self._visit(name, lines[0], frozenset(_names(requirement)))

    def _visit(self, name: str, pin: Requirement, extras: frozenset[str]) -> None:
        before = self.reached.get(name)
        if before is not None and extras <= before:
            return
        self.reached[name] = extras | (before or frozenset())
        itself = self.declared.get(name)
        if itself is None or str(pin.specifier) != f"=={itself.version}":
            self.found.append(f"{name}{pin.specifier} is not installed here, so what it needs is not known.")
        else:
            self.follow(f"{name} {itself.version}", itself.requires, self.reached[name])


def _requirements(text: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def _names(requirement: Requirement) -> set[str]:
    return {canonicalize_name(extra) for extra in requirement.extras}


def _spelled(requirement: Requirement, names: Collection[str] | None = None) -> str:
    named = sorted(requirement.extras if names is None else names)
    extras = f"[{','.join(named)}]" if named else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
