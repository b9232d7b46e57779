"""For adapters: a function around a tool that looks like the tool, perhaps with one more parameter that a framework gives."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from cab_client.errors import CabError
from cab_client.tools import resemble

log = logging.getLogger("cab_client.tools")


def follow(wrapper: Callable[..., Any], tool: Callable[..., Any], **extra: Any) -> Callable[..., Any]:
    """`extra` names parameters, by their annotation, that the framework gives and the model does not see."""
    signature = inspect.signature(tool)
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in extra.items()]
    shown = signature.replace(parameters=[*signature.parameters.values(), *added], return_annotation=Any)
    returns = (
        {"return": Any} if "return" in tool.__annotations__ else {}
    )  # a refusal is a text, whatever the tool returns
    resemble(wrapper, tool, shown, {**tool.__annotations__, **extra, **returns})
    return wrapper


async def result_of(tool: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call it; what it raises as CabError is raised. Synchronous tools run in a thread, for the same user: while they wait,
    the event loop serves others.
    """
    if inspect.iscoroutinefunction(tool):
        return await tool(*args, **kwargs)
    found = await asyncio.to_thread(tool, *args, **kwargs)
    return await found if inspect.isawaitable(found) else found


def told(error: CabError) -> dict[str, str]:
    """What a model may know of a call that was not made."""
    return {"status": "not_done", "reason": words_for_model(error)}


def words_for_model(error: CabError) -> str:
    """The model's words; the developer's go to the log, since nobody else is told of an error that a model is."""
    log.warning("a tool's call was not made: %s", error)
    return error.for_model()
