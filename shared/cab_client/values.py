"""The values that callers hold: secrets that do not leak, tasks, intents, assertions, permits. No I/O."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

Scalar = str | int | bool | list[str]
"""What an intent can show; lists of texts only where the catalog says so."""


def is_scalar(value: Any) -> bool:
    if type(value) is list:
        return all(type(one) is str for one in value)
    return type(value) in (str, int, bool)


ASSERTION_HEADER = "CAB-Assertion"


class Secret:
    """A text that shows itself to nobody but who asks for it by `reveal()`; it cannot be pickled, copied or compared."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, _: str) -> str:
        return repr(self)

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise TypeError("a secret is not pickled or copied: it belongs to one call")

    def __bool__(self) -> bool:
        return bool(self._text)


class HiddenFields(dict[str, str]):
    """Form fields or headers that hold secrets; tools that print variables see only their names."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"

    __str__ = __repr__


def secret(text: str | Secret) -> Secret:
    return text if isinstance(text, Secret) else Secret(text)


def digest(data: bytes) -> str:
    """base64url SHA-256, as the broker writes hashes."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the user asked for, as bounds on intents. The front end writes it from what the user did, never the model."""

    task_id: str
    actions: tuple[str, ...]
    identifiers: tuple[str, ...]
    trigger: str = "user_turn"
    max_uses: int | None = None
    request_digest: str | None = None

    @classmethod
    def for_turn(
        cls,
        text: str,
        *,
        actions: Sequence[str],
        identifiers: Sequence[str],
        max_uses: int | None = None,
        task_id: str | None = None,
    ) -> Task:
        """The user is present and wrote `text`, of which only the SHA-256 is passed on."""
        return cls._new("user_turn", actions, identifiers, max_uses, task_id, f"sha-256:{digest(text.encode())}")

    @classmethod
    def for_schedule(
        cls,
        *,
        actions: Sequence[str],
        identifiers: Sequence[str],
        max_uses: int | None = None,
        task_id: str | None = None,
    ) -> Task:
        """The clock started this; nobody is present."""
        return cls._new("schedule", actions, identifiers, max_uses, task_id, None)

    @classmethod
    def for_event(
        cls,
        *,
        actions: Sequence[str],
        identifiers: Sequence[str],
        max_uses: int | None = None,
        task_id: str | None = None,
    ) -> Task:
        """Something that happened elsewhere started this; nobody is present."""
        return cls._new("event", actions, identifiers, max_uses, task_id, None)

    @classmethod
    def _new(
        cls,
        trigger: str,
        actions: Sequence[str],
        identifiers: Sequence[str],
        max_uses: int | None,
        task_id: str | None,
        request_digest: str | None,
    ) -> Task:
        if isinstance(actions, str) or isinstance(identifiers, str):
            raise TypeError("actions and identifiers are lists")
        return cls(
            task_id=task_id or f"t-{secrets.token_urlsafe(12)}",
            actions=tuple(actions),
            identifiers=tuple(identifiers),
            trigger=trigger,
            max_uses=max_uses,
            request_digest=request_digest,
        )

    def to_dict(self) -> dict[str, Any]:
        """The `cab_task` of docs/api.md."""
        detail: dict[str, Any] = {
            "type": "cab_task",
            "task_id": self.task_id,
            "trigger": self.trigger,
            "actions": list(self.actions),
            "identifiers": list(self.identifiers),
        }
        if self.max_uses is not None:
            detail["limits"] = {"max_uses": self.max_uses}
        if self.request_digest is not None:
            detail["request_digest"] = self.request_digest
        return detail


@dataclass(frozen=True)
class Connection:
    """A system that agents reach: where its API is, and the resource URI that the broker knows it by.

    Without `resource` it is the origin of `api_base`.
    """

    api_base: str
    resource: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.api_base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError("api_base must be an http or https address")
        if not self.resource:
            object.__setattr__(self, "resource", f"{parts.scheme}://{parts.netloc}")


@dataclass(frozen=True)
class Intent:
    """One action on one thing: declared before, compared by the broker with what the user asked for."""

    action: str
    on: str = field(kw_only=True)
    identifier: str = field(kw_only=True)
    parameters: Mapping[str, Scalar] = field(default_factory=dict, kw_only=True)
    reason: str | None = field(default=None, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "on": self.on,
            "identifier": self.identifier,
            "parameters": dict(self.parameters),
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Intent:
        return cls(
            str(value["action"]),
            on=str(value["on"]),
            identifier=str(value["identifier"]),
            parameters=dict(value["parameters"]),
            reason=value.get("reason"),
        )

    def to_detail(self, resource: str) -> dict[str, Any]:
        """The `cab_action` of docs/api.md."""
        detail: dict[str, Any] = {
            "type": "cab_action",
            "actions": [self.action],
            "locations": [resource],
            "identifier": self.identifier,
        }
        if self.parameters:
            detail["parameters"] = dict(self.parameters)
        if self.reason:
            detail["reason"] = self.reason
        return detail


def is_jwt(token: Secret) -> bool:
    """By its form alone."""
    return re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", token.reveal()) is not None


class Assertion:
    """The user, for the agent that it names, for minutes. Shown without the token; neither pickled nor made JSON.

    `expires_at` in seconds since 1970, None when it came from elsewhere. Opaque: do not read it.
    """

    LONG: ClassVar[int] = 6 * 1024  # servers in front of agents often allow 8 KiB in a header

    def __init__(self, token: str | Secret, *, expires_at: float | None = None, txn: str | None = None) -> None:
        self._token = secret(token)
        self.expires_at = expires_at
        self.txn = txn
        if not is_jwt(self._token):
            raise ValueError("an assertion is a JWT")

    def reveal(self) -> str:
        return self._token.reveal()

    def as_header(self) -> dict[str, str]:
        """`CAB-Assertion`, the one place where it travels from hop to hop."""
        return HiddenFields({ASSERTION_HEADER: self.reveal()})

    @property
    def is_long(self) -> bool:
        """Whether servers with small header limits may turn it away."""
        return len(self.reveal()) > self.LONG

    def __repr__(self) -> str:
        return f"Assertion(txn={self.txn!r}, expires_at={self.expires_at!r})"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise TypeError("an assertion is not pickled or copied: it lives for minutes, mint another one")


class Permit:
    """A token for one intent, for one call or block. Shown without the token; neither pickled nor made JSON.

    `narrowed` False: the platform cannot give less than the whole grant, so the token can do more than the intent.
    """

    def __init__(
        self,
        token: str | Secret,
        *,
        intent: Intent | None,
        token_type: str,
        expires_at: float,
        scope: str,
        authorization_details: Sequence[Mapping[str, Any]],
        txn: str | None,
        narrowed: bool,
        proofs: Any = None,
    ) -> None:
        self._token = secret(token)
        self._proofs = proofs
        self.intent = intent
        self.token_type = token_type
        self.expires_at = expires_at
        self.scope = scope
        self.authorization_details: list[dict[str, Any]] = [dict(detail) for detail in authorization_details]
        self.txn = txn
        self.narrowed = narrowed

    def reveal(self) -> str:
        """The token itself, for libraries that want nothing else."""
        return self._token.reveal()

    @property
    def sha256(self) -> str:
        """Of the token, in lower-case hex: how the broker is told which one is meant."""
        return hashlib.sha256(self.reveal().encode()).hexdigest()

    @property
    def expired(self) -> bool:
        return time.time() >= self.expires_at

    def drop(self) -> None:
        """Forget the token."""
        self._token = Secret("")

    def headers(self, method: str = "GET", url: str = "") -> dict[str, str]:
        """The headers of one request. A bound token needs the request's method and address, for the proof."""
        if not self._token:
            raise RuntimeError("this permit has been dropped: a permit is for one block")
        headers = HiddenFields(Authorization=f"{self.token_type} {self.reveal()}")
        if self.token_type == "DPoP":
            if self._proofs is None or not url:
                raise ValueError("a bound token needs the method and the address of its request")
            headers["DPoP"] = self._proofs.proof(method, url, token=self.reveal())
        return headers

    def auth(self, request: Any) -> Any:
        """`auth=permit.auth`, for httpx2, httpx and requests: a callable from request to request."""
        for name, value in self.headers(request.method, str(request.url)).items():
            request.headers[name] = value
        return request

    def __iter__(self) -> Iterator[NoReturn]:
        raise TypeError("a permit is no sequence")

    def __repr__(self) -> str:
        action = None if self.intent is None else self.intent.action
        return f"Permit({action!r}, scope={self.scope!r}, txn={self.txn!r}, narrowed={self.narrowed!r})"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise TypeError("a permit is not pickled or copied: it belongs to one call")
