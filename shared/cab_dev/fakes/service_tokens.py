"""`ServiceTokens` that name their audience and prove nothing."""

from __future__ import annotations

from cab.ports import Unavailable
from cab_dev.fakes.warning import warn_of_fake


class InMemoryServiceTokens:
    """`is_down` makes every call fail."""

    def __init__(self, account: str = "test@demo-cab.iam.gserviceaccount.com") -> None:
        warn_of_fake(self)
        self._account = account
        self.is_down = False

    async def identity_token(self, audience: str) -> str:
        if self.is_down:
            raise Unavailable("service tokens")
        return f"token of {self._account} for {audience}"
