"""`@agent.tool`: the intent comes from the arguments that the function really gets, and from nothing a model wrote about them."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from cab_client.authorized import AsyncAuthorizedClient, AuthorizedClient
from cab_client.errors import InvalidArgument
from cab_client.values import Connection, Intent, Scalar, is_scalar

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PART = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~@:+=,-]{1,128}")
_CLIENTS = (AuthorizedClient, AsyncAuthorizedClient)


def template_names(template: str) -> list[str]:
    """The placeholders of an identifier such as `opportunity/{deal_id}`. Raises: ValueError."""
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        raise ValueError(f"not an identifier template: {template}")
    return _PLACEHOLDER.findall(template)


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The identifier. Each value is one part of it: no slash, no star, no control character. Raises: InvalidArgument."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        value = values[name]
        text = str(value) if type(value) in (str, int) else ""
        if not _PART.fullmatch(text):
            raise InvalidArgument(name, "is not a single identifier")
        return text

    return _PLACEHOLDER.sub(part, template)


def scalar(name: str, value: Any) -> Scalar:
    """A value as intents hold it. Raises: InvalidArgument."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, tuple):
        value = list(value)
    if not is_scalar(value):
        raise InvalidArgument(name, "must be a text, a whole number, true or false, or texts")
    plain: Scalar = list(value) if isinstance(value, list) else value
    return plain


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A tool: the function, how its arguments make the intent, and the signature that the model's schema is made of."""

    function: Callable[..., Any]
    action: str
    on: str
    identifier: str
    parameters: Mapping[str, str]  # name in the intent to name of the argument
    signature: inspect.Signature
    client: str | None  # the name of the hidden parameter

    def intent(self, arguments: Mapping[str, Any]) -> Intent:
        """`arguments` with defaults applied. An argument that is None is one that was left out. Raises: InvalidArgument."""
        return Intent(
            self.action,
            on=self.on,
            identifier=fill(self.identifier, arguments),
            parameters={
                name: scalar(argument, arguments[argument])
                for name, argument in self.parameters.items()
                if arguments[argument] is not None
            },
        )

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound


def declare(
    function: Callable[..., Any],
    action: str,
    *,
    on: str,
    identifier: str,
    parameters: Sequence[str] | Mapping[str, str],
    undeclared: Sequence[str],
    connections: Mapping[str, Connection],
    asynchronous: bool,
    calls: bool,
) -> Declared:
    """Read the function once, when it is decorated. Mistakes are a TypeError or ValueError there, not at the first call."""
    if not inspect.isfunction(function):
        raise TypeError("@agent.tool decorates a plain function: put it innermost, below your framework's decorator")
    if inspect.iscoroutinefunction(function) is not asynchronous:
        raise TypeError("an Agent decorates `def`, an AsyncAgent `async def`")
    if on not in connections:
        raise ValueError(f"there is no connection {on}; connections: {', '.join(connections)}")
    signature = inspect.signature(function, eval_str=True)
    clients = [name for name, parameter in signature.parameters.items() if _is_client(parameter.annotation)]
    wanted = AsyncAuthorizedClient if asynchronous else AuthorizedClient
    if calls and clients:
        raise TypeError("in call mode the broker makes the call: the tool takes no client")
    if not calls and (
        len(clients) != 1
        or signature.parameters[clients[0]].annotation is not wanted
        or signature.parameters[clients[0]].kind is not inspect.Parameter.KEYWORD_ONLY
    ):
        raise TypeError(f"the tool takes one client, after `*`: http: {wanted.__name__}")
    shown = [parameter for name, parameter in signature.parameters.items() if name not in clients]
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in shown):
        raise TypeError("a tool names its arguments: no *args, no **kwargs")
    named = dict(parameters) if isinstance(parameters, Mapping) else {name: name for name in parameters}
    used = {*template_names(identifier), *named.values()}
    names = {parameter.name for parameter in shown}
    if missing := used - names:
        raise ValueError(f"the tool has no argument {', '.join(sorted(missing))}")
    if silent := names - used - set(undeclared):
        raise ValueError(
            f"the intent would not tell of {', '.join(sorted(silent))}: name it in parameters, or in undeclared"
        )
    return Declared(
        function=function,
        action=action,
        on=on,
        identifier=identifier,
        parameters=named,
        signature=signature.replace(parameters=shown),
        client=clients[0] if clients else None,
    )


def dress(wrapper: Callable[..., Any], tool: Declared) -> None:
    """Make the wrapper look like the function without its client, to whoever makes a schema of it."""
    shown = tool.signature
    annotations = {
        name: parameter.annotation
        for name, parameter in shown.parameters.items()
        if parameter.annotation is not parameter.empty
    }
    if shown.return_annotation is not shown.empty:
        annotations["return"] = shown.return_annotation
    resemble(wrapper, tool.function, shown, annotations)
    wrapper.__cab_tool__ = tool  # type: ignore[attr-defined]


def resemble(
    wrapper: Callable[..., Any],
    function: Callable[..., Any],
    signature: inspect.Signature,
    annotations: Mapping[str, Any],
) -> None:
    """Give the wrapper the function's names and text, and the signature and annotations that are to be seen."""
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(wrapper, name, getattr(function, name))
    wrapper.__annotations__ = dict(annotations)
    wrapper.__signature__ = signature  # type: ignore[attr-defined]


def _is_client(annotation: Any) -> bool:
    return annotation in _CLIENTS or any(one in _CLIENTS for one in get_args(annotation))
