"""What may go wrong, one class for each remedy. `reason_code` says exactly why; docs/api.md lists them.

`for_model()` is a short fixed text that may be shown to a model: no link, no token, no rule. `for_user()` is for the person
and has the link where there is one. `str(error)` is for developers and logs: no link and no token in it either.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from cab_client.values import Intent


class CabError(Exception):
    """The broker gave nothing. `txn` joins it with the audit log: quote it to an operator."""

    model_text: ClassVar[str] = "The request could not be made. Do not try again; tell the user."

    def __init__(
        self, reason_code: str, *, txn: str | None = None, parameter: str | None = None, description: str = ""
    ) -> None:
        super().__init__(reason_code)
        self.reason_code = reason_code
        self.txn = txn
        self.parameter = parameter
        self.description = description

    def __str__(self) -> str:
        about = [f"parameter {self.parameter}"] if self.parameter else []
        about += [f"txn {self.txn}"] if self.txn else []
        return f"{self.reason_code}: {self.description}".removesuffix(": ") + (
            f" ({', '.join(about)})" if about else ""
        )

    def for_model(self) -> str:
        return self.model_text

    def for_user(self) -> str:
        return f"{self.user_text} (reference {self.txn})" if self.txn else self.user_text

    user_text: ClassVar[str] = "This did not work. Please tell the people who run this assistant."


# --- the user has to do something ---


class NeedsUser(CabError):
    """Only the user can change the answer: show them `uri`, then repeat the very same call."""

    model_text = "This waits for the user, who has been asked. Do not repeat it with other arguments."
    user_text = "Please open this page"
    wants: ClassVar[str] = "interaction"

    def __init__(self, reason_code: str, *, uri: str | None = None, **about: Any) -> None:
        super().__init__(reason_code, **about)
        self.uri = uri

    def for_user(self) -> str:
        return f"{self.user_text}: {self.uri}" if self.uri else super().for_user()

    def public(self) -> dict[str, Any]:
        """What a user interface needs, without secrets: for interrupts, events and metadata."""
        return {
            "auth_required": True,
            "auth_url": self.uri,
            "auth_id": self.txn,
            "kind": self.wants,
            "reason_code": self.reason_code,
            "text": self.for_user(),
        }


class ConfirmationNeeded(NeedsUser):
    """The user must agree to this intent in a browser of their own. Repeat the call afterwards, or `wait()`.

    `until` (seconds since 1970) is when the question ends, where the broker said so. `deferral_code` is there when the
    exchange was asked for with `deferred=True`: it works without the assertion, once.
    """

    model_text = "The user has been asked to confirm exactly this. Do not repeat it with other arguments."
    user_text = "Please confirm or refuse on this page what the assistant wants to do"
    wants = "confirmation"

    def __init__(
        self,
        reason_code: str,
        *,
        uri: str | None = None,
        until: float | None = None,
        interval: float = 2.0,
        deferral_code: str | None = None,
        **about: Any,
    ) -> None:
        super().__init__(reason_code, uri=uri, **about)
        self.until = until
        self.interval = interval
        self.deferral_code = deferral_code
        self.intent: Intent | None = None
        self.calls = False  # whether the broker makes the call, and under which id
        self.call_id: str | None = None
        self._waiting: Any = None

    def wait(self, seconds: float = 600.0) -> Any:
        """Poll until the user has decided; the permit, or the `CallResult` where the broker makes the call, for which the
        assertion is needed to the end. To be awaited where the agent is an `AsyncAgent`.

        For callers that may block, such as scripts. One waiter for one question: of two, one gets an error.
        Raises: UserRefused, Unanswered; ConfirmationNeeded again when `seconds` have passed.
        """
        if self._waiting is None:
            raise RuntimeError("only an error that an agent raised can wait; see agent.pending(text)")
        return self._waiting(self, seconds)

    def to_json(self) -> str:
        """For a restart: `agent.pending(text)` makes the error again. Holds no token."""
        return json.dumps(
            {
                "reason_code": self.reason_code,
                "txn": self.txn,
                "uri": self.uri,
                "until": self.until,
                "interval": self.interval,
                "deferral_code": self.deferral_code,
                "intent": None if self.intent is None else self.intent.to_dict(),
                "calls": self.calls,
                "call_id": self.call_id,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ConfirmationNeeded:
        """What `to_json` wrote; it cannot wait by itself."""
        from cab_client.values import Intent

        value = json.loads(text)
        intent, calls, call_id = value.pop("intent"), value.pop("calls", False), value.pop("call_id", None)
        needed = cls(value.pop("reason_code"), **value)
        needed.intent = None if intent is None else Intent.from_dict(intent)
        needed.calls, needed.call_id = calls, call_id
        return needed


class ConnectionNeeded(NeedsUser):
    """The user has to connect the system: `kind` is `missing`, `reauth` or `revoked`.

    Without `uri` the organisation decides instead of its users: tell the platform team.
    """

    model_text = "The user first has to connect this system and has been told so. Do not try another way."
    user_text = "Please connect the system on this page"
    wants = "connection"

    @property
    def kind(self) -> str:
        return {"grant_missing": "missing", "grant_revoked": "revoked"}.get(self.reason_code, "reauth")


# --- back to the front end ---


class AssertionExpired(CabError):
    """The user's assertion has ended, which it does after minutes: the front end mints another one."""

    model_text = "The user's session for this request has ended. Stop; the user has to ask again."
    user_text = "This took too long. Please ask again."


class LoginExpired(CabError):
    """The ID token has ended: log the user in again, or renew it."""

    model_text: ClassVar[str] = AssertionExpired.model_text
    user_text = "Please log in again."


class StepUpNeeded(CabError):
    """The login is too weak or too old for this: log in again with `acr_values` and `max_age` (seconds), mint again."""

    model_text = "The user has to log in again for this. Stop until they have."
    user_text = "Please log in again for this."

    def __init__(
        self, reason_code: str, *, acr_values: str | None = None, max_age: int | None = None, **about: Any
    ) -> None:
        super().__init__(reason_code, **about)
        self.acr_values = acr_values
        self.max_age = max_age


class NoUser(CabError):
    """Nobody said for whom: give `assertion=`, or enter `with acting_for(assertion):` first. A new thread begins empty,
    see `bind`.
    """

    def __init__(self) -> None:
        super().__init__("no_user", description="No assertion was given and none is current: see acting_for.")


# --- no ---


class Refused(CabError):
    """No, and asking again or in other words does not change it."""

    model_text = "This is not allowed. Do not try again, and do not try another way."
    user_text = "The assistant may not do this for you."


class UserRefused(Refused):
    """The user said no."""

    model_text = "The user said no. Do not try again, and do not try another way."
    user_text = "You refused this."


class TaskExhausted(Refused):
    """The task's uses are spent: the user has to ask again."""

    model_text = "What the user asked for has been used up. Stop; the user has to ask again."
    user_text = "The assistant has done as much as you asked for. Please ask again to go on."


class Unanswered(CabError):
    """Nobody answered the question in time, or it was made void. The same call asks anew."""

    model_text = "The user did not answer in time. Stop; the user has to ask again."
    user_text = "The question has expired. Please ask again."


# --- later, or a mistake ---


class TryLater(CabError):
    """The broker or a system behind it cannot answer now. Tried again already where that is safe; `retry_after` in seconds."""

    model_text = "This is not available at the moment. Stop and tell the user to try later."
    user_text = "This is not available at the moment. Please try later."

    def __init__(self, reason_code: str, *, retry_after: float | None = None, **about: Any) -> None:
        super().__init__(reason_code, **about)
        self.retry_after = retry_after


class OutcomeUnknown(CabError):
    """The call may have been made. Look at the system before doing it again."""

    model_text = "It is not known whether this was done. Do not repeat it; look first whether it was."
    user_text = "It is not known whether this was done. Please look."


class CallRejected(CabError):
    """The broker made a tool's call, and the system said no, by HTTP with this status. It was not done."""

    model_text = "The system refused this"
    user_text = "The system did not accept this."

    def __init__(self, status: int | None, *, txn: str | None = None) -> None:
        super().__init__(f"status_{status}" if status else "call_rejected", txn=txn, description="The system said no.")
        self.status = status

    def for_model(self) -> str:
        return f"{self.model_text}{f', with HTTP status {self.status}' if self.status else ''}. It was not done."


class BrokerFailed(CabError):
    """The broker, or what is in front of it, failed. Report `txn`."""


class AnswerWithheld(BrokerFailed):
    """The broker made the call and the system did it, but its answer was not fit to be given on. Report `txn`."""

    model_text = "This was done, but its answer cannot be shown. Do not do it again; tell the user."
    user_text = "This was done, but the answer could not be shown."


class Misconfigured(CabError):
    """A developer's or an operator's mistake; `parameter` names what is wrong, where it is known."""


class InvalidArgument(Misconfigured):
    """An argument of a tool cannot be in an intent. `parameter` is its name."""

    def __init__(self, name: str, because: str) -> None:
        super().__init__("argument_invalid", parameter=name, description=because)

    def for_model(self) -> str:
        return f"The argument {self.parameter} {self.description}."


class WrongOrigin(CabError):
    """A request would have left the system that the token is for. Nothing was sent."""

    def __init__(self) -> None:
        super().__init__("wrong_origin", description="The client may only be used for the connection's own origin.")


# --- an error answer as one of these ---

_BY_REASON: Mapping[str, type[CabError]] = {
    "confirmation_required": ConfirmationNeeded,
    "authorization_pending": ConfirmationNeeded,
    "polled_too_fast": ConfirmationNeeded,
    "grant_missing": ConnectionNeeded,
    "grant_needs_reauth": ConnectionNeeded,
    "grant_revoked": ConnectionNeeded,
    "step_up_required": StepUpNeeded,
    "subject_token_expired": AssertionExpired,
    "confirmation_refused": UserRefused,
    "deferral_expired": Unanswered,
    "deferral_code_invalid": Unanswered,  # redeemed perhaps, and its answer lost
    "task_exhausted": TaskExhausted,
    "intent_missing": Misconfigured,
    "intent_malformed": Misconfigured,
    "location_mismatch": Misconfigured,
    "policy_error": BrokerFailed,
    "call_outcome_unknown": OutcomeUnknown,
    "call_already_attempted": OutcomeUnknown,
}
_BY_ERROR: Mapping[str, type[CabError]] = {
    "interaction_required": NeedsUser,
    "authorization_pending": ConfirmationNeeded,
    "slow_down": ConfirmationNeeded,
    "insufficient_user_authentication": StepUpNeeded,
    "access_denied": UserRefused,
    "expired_token": Unanswered,
    "invalid_authorization_details": Refused,
    "temporarily_unavailable": TryLater,
    "server_error": BrokerFailed,
}


NOT_THE_BROKERS = "The answer is not the broker's: is its origin right, and what is in front of it?"

_BY_OUTCOME: Mapping[Any, type[CabError]] = {"done": AnswerWithheld, "unknown": OutcomeUnknown}
"""What came of a call goes before the reason why its answer is not given."""


def is_brokers(body: Mapping[str, Any] | None) -> bool:
    """Whether an error answer is the broker's own, and not of something before it."""
    return body is not None and isinstance(body.get("error"), str)


def error_from(
    status: int, body: Mapping[str, Any] | None, headers: Mapping[str, str], *, origin: str, now: float | None = None
) -> CabError:
    """The error of an answer that is none of success. Unknown reasons and members are those of newer brokers."""
    if body is None or not is_brokers(body):
        foreign: dict[str, Any] = {"txn": headers.get("cab-txn"), "description": NOT_THE_BROKERS}
        if status in (429, 502, 503, 504):
            return TryLater(f"http_{status}", retry_after=_seconds(headers.get("retry-after"), now), **foreign)
        return BrokerFailed(f"http_{status}", **foreign)
    error, reason = body["error"], str(body.get("reason_code") or body["error"])
    kind = _BY_OUTCOME.get(_text(body.get("outcome"))) or _BY_REASON.get(reason) or _BY_ERROR.get(error, Misconfigured)
    about: dict[str, Any] = {
        "txn": _text(body.get("txn")) or headers.get("cab-txn"),
        "parameter": _text(body.get("parameter")),
        "description": _text(body.get("error_description")) or "",
    }
    if issubclass(kind, NeedsUser):
        uri = _text(body.get("interaction_uri"))
        about["uri"] = uri if uri is not None and uri.startswith(f"{origin}/") else None  # people are sent nowhere else
    if kind is ConfirmationNeeded:
        life = number_of(body.get("expires_in"))
        about["until"] = None if life is None else (time.time() if now is None else now) + life
        about["interval"] = number_of(body.get("interval")) or 2.0
        about["deferral_code"] = _text(body.get("deferral_code"))
    elif kind is StepUpNeeded:
        age = number_of(body.get("max_age"))
        about |= {"acr_values": _text(body.get("acr_values")), "max_age": None if age is None else int(age)}
    elif kind is TryLater:
        about["retry_after"] = _seconds(headers.get("retry-after"), now)
    return kind(reason, **about)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(retry_after: str | None, now: float | None) -> float | None:
    """Seconds or a date, RFC 9110 section 10.2.3."""
    try:
        at = parsedate_to_datetime(retry_after or "").timestamp()
    except ValueError:
        return number_of(retry_after)
    return max(0.0, at - (time.time() if now is None else now))


def number_of(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < 1e9 else None
