"""A deployment folder as bytes: which files belong to it, how large they may be, and their digest.

broker.yaml  identity_providers.yaml  agents.yaml  connections.yaml  policies/*.cedar  [policies_candidate/*.cedar]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path

from cab.adapters.configuration.problems import Problem, choose_from
from cab.adapters.configuration.yaml_tree import INVISIBLE, MAX_BYTES
from cab.domain.identifiers import base64url
from cab.values import immutable

YAML_FILES = ("broker.yaml", "identity_providers.yaml", "agents.yaml", "connections.yaml")
POLICIES, CANDIDATES = "policies", "policies_candidate"
MAX_POLICY_FILES = 200


@immutable
class Folder:
    """The files by name relative to the folder, as read; policies decoded, sorted by name."""

    yaml: Mapping[str, bytes]
    policies: tuple[tuple[str, str], ...]
    candidate_policies: tuple[tuple[str, str], ...]
    policy_version: str
    problems: tuple[Problem, ...] = field(default=())


def read_folder(root: Path) -> Folder:
    """Everything that belongs to the deployment, with what is missing, unreadable or lying beside it as problems."""
    problems: list[Problem] = []
    raw: dict[str, bytes] = {}
    if not root.is_dir():
        problems.append(Problem(str(root), 1, "is not a folder", "name the folder that holds broker.yaml"))
    for name in YAML_FILES:
        if (data := _read(root / name, name, problems)) is not None:
            raw[name] = data
    policies = _policies(root, POLICIES, raw, problems)
    candidates = _policies(root, CANDIDATES, raw, problems)
    if not policies and not any(problem.file.startswith(f"{POLICIES}/") for problem in problems):
        remedy = "add a .cedar file: without a permit everything is denied"
        problems.append(Problem(POLICIES, 1, "there is no policy at all", remedy))
    problems += _strangers(root)
    return Folder(
        yaml={name: raw[name] for name in YAML_FILES if name in raw},
        policies=policies,
        candidate_policies=candidates,
        policy_version=digest_of(raw),
        problems=tuple(problems),
    )


def digest_of(files: Mapping[str, bytes]) -> str:
    """`sha-256:` and base64url of SHA-256 over the files by sorted name; name and content each led by their length (8 bytes)."""
    hasher = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            hasher.update(len(part).to_bytes(8, "big"))
            hasher.update(part)
    return f"sha-256:{base64url(hasher.digest())}"


def _read(path: Path, name: str, problems: list[Problem]) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problems.append(Problem(name, 1, "the file is missing", "create it; docs/configuration.md says what it holds"))
    except OSError:
        problems.append(Problem(name, 1, "the file cannot be read", "check what it is and its permissions"))
    else:
        if len(data) <= MAX_BYTES:
            problems += _invisible(name, data)
            return data
        problems.append(Problem(name, 1, f"the file is larger than {MAX_BYTES // 1024} KiB", "split or shorten it"))
    return None


def _invisible(name: str, data: bytes) -> Iterator[Problem]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return  # told by who reads it: of UTF-16 every other character would be one
    if text.startswith("\ufeff"):
        yield Problem(name, 1, "the file begins with a byte order mark", "save it as UTF-8 without one")
        text = text[1:]
    for found in INVISIBLE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Problem(name, line, f"an invisible character, U+{ord(found.group()):04X}", "remove it")


def _policies(root: Path, folder: str, raw: dict[str, bytes], problems: list[Problem]) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    paths = sorted((root / folder).glob("*.cedar"))
    if len(paths) > MAX_POLICY_FILES:
        problems.append(Problem(folder, 1, f"more than {MAX_POLICY_FILES} policy files", "merge some of them"))
    for path in paths[:MAX_POLICY_FILES]:
        name = f"{folder}/{path.name}"
        data = _read(path, name, problems)
        if data is None:
            continue
        raw[name] = data
        try:
            found.append((name, data.decode("utf-8").removeprefix("\ufeff")))  # a mark is told once
        except UnicodeDecodeError as exc:
            line = data.count(b"\n", 0, exc.start) + 1
            problems.append(Problem(name, line, "the file is not UTF-8", "save it as UTF-8"))
    return tuple(found)


def _strangers(root: Path) -> list[Problem]:
    """Files that look as if they were meant to be read and are not: a misspelt name would otherwise be ignored in silence."""
    problems: list[Problem] = []
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml"), *root.glob("*.cedar")]):
        if path.name not in YAML_FILES:
            remedy = choose_from(path.name, YAML_FILES, otherwise="remove it")
            problems.append(Problem(path.name, 1, "this file is not read", remedy, severity="warning"))
    for name in sorted({path.parent.name for path in root.glob("*/*.cedar")} - {POLICIES, CANDIDATES}):
        remedy = choose_from(name, (POLICIES, CANDIDATES), otherwise=f"move them to {POLICIES}")
        problems.append(Problem(name, 1, "policies in this folder are not read", remedy, severity="warning"))
    for folder in (POLICIES, CANDIDATES):
        for path in sorted((root / folder).glob("*")):
            if path.suffix not in (".cedar", ".md"):
                remedy = "name policies *.cedar, directly in this folder"
                problems.append(Problem(f"{folder}/{path.name}", 1, "this is not read", remedy, severity="warning"))
    return problems
