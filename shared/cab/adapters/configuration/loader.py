"""From a deployment folder to a `Deployment`: read, fill in variables, validate, cross-check; every mistake is collected.

The functions call `FolderConfiguration.load` at start; `cab config validate` calls `inspect_folder`, which also type-checks the policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cab.adapters.configuration.checks.references import cross_checks
from cab.adapters.configuration.files import (
    MODELS,
    AgentsFile,
    ConnectionsFile,
    IdentityProvidersFile,
)
from cab.adapters.configuration.folder import CANDIDATES, POLICIES, Folder, read_folder
from cab.adapters.configuration.model_errors import validate
from cab.adapters.configuration.problems import ConfigurationRefused, Problem, choose_from, errors_among
from cab.adapters.configuration.shipped import Providers, shipped_providers
from cab.adapters.configuration.variables import BROKER_FILE, about_declarations, declared_variables, fill
from cab.adapters.configuration.yaml_tree import YamlTree, read_yaml
from cab.domain.configured.deployment import Broker, Deployment, Tenant
from cab.values import immutable

CONNECTIONS_FILE = "connections.yaml"
# In the place of a file that cannot be read, so that the others can still be checked for everything that does not depend on it.
_STAND_INS: Mapping[str, Any] = {
    BROKER_FILE: Broker(
        origin="https://unknown.invalid",
        allow_loopback_http=True,
        tenants=(Tenant(id="unknown", title="Unknown"),),
    ),
    "identity_providers.yaml": IdentityProvidersFile.model_construct(identity_providers=()),
    "agents.yaml": AgentsFile(),
    CONNECTIONS_FILE: ConnectionsFile.model_construct(providers=(), connections=()),
}


@immutable
class Inspection:
    """What `cab config validate` reports. `deployment` is None when some file does not even have the right shape."""

    deployment: Deployment | None
    problems: tuple[Problem, ...]

    @property
    def valid(self) -> bool:
        return not errors_among(self.problems)


@dataclass(frozen=True)
class FolderConfiguration:
    """`ports.Configuration` over a folder. `environment` fills `${NAME}` and tells whether this is the cloud (`K_SERVICE`)."""

    root: Path
    environment: Mapping[str, str]

    def load(self) -> Deployment:
        """The deployment, policies as text. Their content is the policy engine's to check: it refuses what it cannot enforce.

        Raises: ConfigurationRefused with every error in the files.
        """
        deployment, problems, unread = _read(self.root, self.environment)
        errors = errors_among(problems)
        if unread or errors:
            raise ConfigurationRefused(errors)
        return deployment


def inspect_folder(
    root: Path, environment: Mapping[str, str], *, unset: Literal["error", "warning"] = "error"
) -> Inspection:
    """Everything that can be said about the folder without serving from it: as `load`, plus warnings and every policy.

    `unset` says how grave a variable without a value is: files are often checked where they do not run.
    """
    from cab.adapters.cedar.checks import check_policies  # noqa: PLC0415 - functions without policies never load Cedar

    deployment, problems, unread = _read(root, environment, unset=unset)
    for folder, texts in ((POLICIES, deployment.policies), (CANDIDATES, deployment.candidate_policies)):
        if texts:
            problems += check_policies(deployment, texts, folder=folder, unread=unread)[1]
    return Inspection(None if unread else deployment, tuple(sorted(set(problems))))


def _read(
    root: Path, environment: Mapping[str, str], *, unset: Literal["error", "warning"] = "error"
) -> tuple[Deployment, list[Problem], frozenset[str]]:
    """The deployment, every problem, and the files that could not be read: for those the deployment holds stand-ins."""
    folder = read_folder(root)
    problems = list(folder.problems)
    trees, uncertain = _trees(folder, environment, problems, unset)
    if CONNECTIONS_FILE in trees:
        trees[CONNECTIONS_FILE] = _with_extended_providers(trees[CONNECTIONS_FILE], problems)
    parsed: dict[str, Any] = {}
    for name, tree in trees.items():
        parsed[name], mistakes = validate(MODELS[name], tree)
        problems += mistakes
    unread = frozenset(name for name in MODELS if parsed.get(name) is None)
    parsed |= {name: _STAND_INS[name] for name in unread}
    deployment = _deployment(folder, parsed)
    own = parsed[CONNECTIONS_FILE].providers
    problems += cross_checks(deployment, trees, environment, own_providers=own, unread=unread, uncertain=uncertain)
    return deployment, problems, unread


def _trees(
    folder: Folder, environment: Mapping[str, str], problems: list[Problem], unset: Literal["error", "warning"]
) -> tuple[dict[str, YamlTree], set[str]]:
    """The YAML files as trees, variables filled in; and those in which a variable could not be."""
    trees: dict[str, YamlTree] = {}
    for name, data in folder.yaml.items():
        tree, mistakes = read_yaml(name, data)
        problems += mistakes
        if tree is not None:
            trees[name] = tree
    broker = trees.get(BROKER_FILE)
    declared = None if broker is None else declared_variables(broker)
    used, undeclared, uncertain = set[str](), set[str](), set[str]()
    for name, tree in trees.items():
        filled = fill(tree, declared=declared, environment=environment, reported=undeclared)
        trees[name] = filled.tree
        problems += filled.problems
        used |= filled.used
        undeclared |= filled.undeclared
        if filled.undeclared:
            uncertain.add(name)
    if broker is not None and declared is not None and len(trees) == len(MODELS):
        problems += about_declarations(broker, declared, used, environment, unset=unset)
    return trees, uncertain


def _with_extended_providers(tree: YamlTree, problems: list[Problem]) -> YamlTree:
    """Own providers that extend a shipped one, completed by its facts. Members are taken whole: nothing is merged below the top."""
    entries = tree.value.get("providers") if isinstance(tree.value, dict) else None
    if not isinstance(entries, list):
        return tree
    shipped = shipped_providers()
    completed: list[Any] = []
    for position, entry in enumerate(entries):
        base = entry.get("extends") if isinstance(entry, dict) else None
        if isinstance(base, str) and base not in shipped:
            remedy = choose_from(base, shipped, otherwise="")
            line = tree.line(("providers", position, "extends"))
            problems.append(Problem(tree.file, line, f"there is no shipped provider {base}", remedy))
            base = "generic-oauth2"  # what the right one would have brought is not missing, too
        completed.append({**shipped.get(base, {}), **entry} if isinstance(base, str) else entry)
    return YamlTree(tree.file, {**tree.value, "providers": completed}, tree.lines)


def _deployment(folder: Folder, parsed: Mapping[str, Any]) -> Deployment:
    broker: Broker = parsed[BROKER_FILE]
    people: IdentityProvidersFile = parsed["identity_providers.yaml"]
    clients: AgentsFile = parsed["agents.yaml"]
    systems: ConnectionsFile = parsed[CONNECTIONS_FILE]
    return Deployment(
        broker=broker,
        identity_providers=people.identity_providers,
        front_ends=clients.front_ends,
        agents=clients.agents,
        connections=systems.connections,
        provider_by_id=Providers(systems.providers),
        policies=folder.policies,
        policy_version=folder.policy_version,
        candidate_policies=folder.candidate_policies,
    )
