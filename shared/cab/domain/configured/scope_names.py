"""Names of scopes as a provider means them: other names for the same scope, scopes that include others, capital letters.

RFC 6749 section 3.3 knows only names that are equal or not; vendors answer with other names than they were asked for. What is
not written here is compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from pydantic import Field

from cab.domain.configured.actions import ScopeToken
from cab.domain.configured.model import StrictModel


class ScopeNames(StrictModel):
    """How one provider's scopes compare. Without members: exactly (RFC 6749 section 3.3)."""

    aliases: dict[ScopeToken, ScopeToken] = Field(
        default_factory=dict, description="Other names for the same scope: the short one to the one that answers carry."
    )
    implies: dict[ScopeToken, tuple[ScopeToken, ...]] = Field(
        default_factory=dict, description="Scopes that include others, which answers then leave out."
    )
    optional_prefix: str | None = Field(
        default=None, min_length=1, description="A prefix that names may have or lack without changing their meaning."
    )
    ignore_case: bool = Field(default=False, description="Whether capital and small letters are the same.")

    def missing(self, wanted: Iterable[str], granted: Iterable[str]) -> tuple[str, ...]:
        """What of `wanted` is in no scope of `granted`, in the words of `wanted`."""
        given = self._with_implied(granted)
        return tuple(scope for scope in wanted if self._plain(scope) not in given)

    def beyond(self, granted: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
        """What of `granted` goes beyond `wanted`, in the words of `granted`."""
        return self.missing(granted, wanted)

    def _plain(self, scope: str) -> str:
        """One name for everything that means the same."""
        name = self._folded(scope)
        return self._plain_aliases.get(name, name)

    def _folded(self, scope: str) -> str:
        name = scope.casefold() if self.ignore_case else scope
        prefix = self.optional_prefix or ""
        return name.removeprefix(prefix.casefold() if self.ignore_case else prefix)

    @cached_property
    def _plain_aliases(self) -> dict[str, str]:
        return {self._folded(name): self._folded(meant) for name, meant in self.aliases.items()}

    @cached_property
    def _plain_implies(self) -> dict[str, Sequence[str]]:
        return {self._plain(wide): [self._plain(item) for item in inner] for wide, inner in self.implies.items()}

    def _with_implied(self, scopes: Iterable[str]) -> set[str]:
        found: set[str] = set()
        open_names = [self._plain(scope) for scope in scopes]
        while open_names:
            name = open_names.pop()
            if name not in found:
                found.add(name)
                open_names += self._plain_implies.get(name, ())
        return found
