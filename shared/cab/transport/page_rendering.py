"""Pages as HTML: templates that escape everything, one inlined stylesheet named by its hash, and headers that forbid the rest.

No script, no image, no font, nothing from anywhere else: what a page shows is in its own bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from cab.domain.configured.actions import Effect
from cab.domain.text import safe as display
from cab.ports import Clock
from cab.transport.requests import hardening
from cab.use_cases.people.account import Deed

_TEMPLATES: Final = Path(__file__).parent / "templates"
BRIEF_CHARS: Final = 200
_EFFECT_WORDS: Final = {Effect.READ: "Looks only", Effect.WRITE: "Changes data", Effect.DESTRUCTIVE: "Deletes data"}


def templates_of(folder: Path) -> Environment:
    """The templates of a folder: everything is escaped, and a name that is not given is an error, not nothing."""
    return Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def csp_hash(inlined: str) -> str:
    """The source expression that allows exactly this inlined text (Content Security Policy Level 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()


@cache
def _style() -> str:
    return (_TEMPLATES / "style.css").read_text("utf-8")


@cache
def _pages() -> Environment:
    """Compiled once in a process."""
    environment = templates_of(_TEMPLATES)
    environment.globals |= {
        "style": Markup(_style()),  # noqa: S704  # our own file
        "shown": shown,
        "came_of": came_of,
        "typed": typed,
        "in_brief": in_brief,
        "instant": instant,
        "effect_words": _EFFECT_WORDS.__getitem__,
    }
    return environment


class PageRenderer:
    """Pages as of a clock."""

    def __init__(self, clock: Clock, *, https: bool) -> None:
        self._clock = clock
        self._style_source = csp_hash(_style())
        self._headers = {
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        } | hardening(https=https)

    def page(
        self,
        template: str,
        *,
        txn: str,
        status: int = 200,
        form_targets: Iterable[str] = (),
        **values: Any,
    ) -> Response:
        """A whole page. `form_targets` are the sources beside our own that a form of it may lead to, by redirect too."""
        now = {"ago": self._ago, "minutes_left": self._minutes_left}
        html = _pages().get_template(template).render(now, txn=txn, **values)
        return HTMLResponse(html, status_code=status, headers=self.headers(txn, form_targets))

    def headers(self, txn: str, form_targets: Iterable[str] = ()) -> dict[str, str]:
        targets = " ".join(("'self'", *form_targets))
        policy = (
            f"default-src 'none'; style-src '{self._style_source}'; form-action {targets}; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        return self._headers | {"Content-Security-Policy": policy, "CAB-Txn": txn}

    def _ago(self, at: datetime) -> str:
        seconds = int((self._clock.now() - at).total_seconds())
        if seconds < 90:
            return "just now"
        for size, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
            if seconds >= size * (2 if size == 60 else 1):
                count = seconds // size
                return f"{count} {word}{'s' if count != 1 else ''} ago"
        return "a minute ago"

    def _minutes_left(self, until: datetime) -> str:
        minutes = int((until - self._clock.now()).total_seconds() / 60)
        return "in less than a minute" if minutes < 1 else f"in {minutes} minute{'s' if minutes != 1 else ''}"


def shown(text: str) -> Markup:
    """Text of unknown origin, isolated from the line it is in; what would not be seen is marked and named."""
    pieces = (
        Markup('<span class="sign" title="A character that cannot be seen">{}</span>').format(segment.text)
        if segment.escaped
        else escape(segment.text)
        for segment in display.segments(text)
    )
    return Markup('<bdi class="raw">{}</bdi>').format(Markup().join(pieces))


def typed(value: object) -> Markup:
    """A parameter so that its type and its ends are seen: text in quotation marks, numbers bare and grouped once more."""
    if isinstance(value, bool):
        return Markup('<span class="number">{}</span>').format("true" if value else "false")
    if isinstance(value, int):
        grouped = Markup(' <span class="soft">({:,})</span>').format(value) if abs(value) >= 10_000 else ""
        return Markup('<span class="number">{}</span>{}').format(value, grouped)
    if isinstance(value, list | tuple):
        return Markup("<br>").join(typed(item) for item in value)
    return Markup('<span class="quote">“</span>{}<span class="quote">”</span>').format(shown(str(value)))


def in_brief(parameters: Mapping[str, object]) -> Markup:
    """How a question's parameters begin, for the list of all questions. The page on which it is decided shows them whole.

    An agent may ask fifty questions of 32 KiB each, and what is marked as not to be seen takes 25 times its size.
    """
    pieces: list[Markup] = []
    left = BRIEF_CHARS
    for name, value in parameters.items():
        text = ", ".join(value) if isinstance(value, list | tuple) else str(value)
        if left <= 0:
            pieces.append(Markup("…"))
            break
        told = typed(value) if len(text) <= left or isinstance(value, int) else typed(text[:left]) + "…"
        pieces.append(Markup("{}: {}").format(shown(name), told))
        left -= len(name) + len(text)
    return Markup(", ").join(pieces)


def instant(at: datetime) -> Markup:
    """A moment, in UTC: the page does not know where its reader is."""
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), utc.strftime("%d %b %Y, %H:%M UTC")
    )


_CAME_OF: Final = {
    "done": "The agent says that it was done.",
    "rejected": "The agent says that the system refused it.",
    "failed": "The agent says that it failed.",
    "not_used": "The agent says that it did not use this.",
    "unknown": "The agent does not know whether it was done.",
}


_CAME_OF_CALL: Final = {
    "done": "The call was made for the agent: it was done.",
    "rejected": "The call was made for the agent: the system refused it.",
    "not_sent": "The call for the agent was not made: the system could not be reached.",
    "unknown": "The call was made for the agent: whether it was done is not known.",
}


def came_of(deed: Deed) -> str:
    """What came of an access, and whose word that is."""
    if deed.by_broker and (deed.action is None or deed.action.effect is Effect.READ):
        return "The call was made for the agent, which was given the answer and no access."
    if deed.by_broker:
        return _CAME_OF_CALL.get(deed.outcome or "", "A call for the agent. Whether it was done is not known so far.")
    return _CAME_OF.get(deed.outcome or "", "Nobody has said what came of it: it counts as used.")
