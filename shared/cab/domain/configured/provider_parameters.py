"""The parts of a provider's addresses that differ from organisation to organisation, and how a connection fills them.

A preset writes `https://{instance}.service-now.com/oauth_token.do` and declares `instance`; a connection gives its value. What
a value may be is decided by its place, so that no value can lead an address to another place than the preset means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, StringConstraints, model_validator

from cab.domain.configured.model import StrictModel

ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_BRACES = re.compile(r"[{}]")


class ParameterKind(StrEnum):
    """Which part of an address a parameter is."""

    SUBDOMAIN = "subdomain"  # the first labels of a host whose domain the preset fixes
    HOST = "host"  # a whole host
    SEGMENT = "segment"  # one segment of the path


_VALUES: Final = {
    ParameterKind.SUBDOMAIN: re.compile(rf"{_LABEL}(?:\.{_LABEL}){{0,4}}"),
    ParameterKind.HOST: re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.){{1,9}}[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])"),
    ParameterKind.SEGMENT: re.compile(r"(?=.{1,128}\Z)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"),
}
_FORMS: Final = {
    ParameterKind.SUBDOMAIN: "small letters, digits and hyphens, parts joined by dots",
    ParameterKind.HOST: "a host name in small letters, without scheme, port or path",
    ParameterKind.SEGMENT: "letters, digits, `_` and `-`, parts joined by dots",
}


class ProviderParameter(StrictModel):
    """One part of a provider's addresses that a connection gives in `provider_parameters`."""

    kind: ParameterKind = Field(description="Which part of the address it is; decides what a value may be.")
    description: str = Field(min_length=1, max_length=200, description="Where the platform team finds its value.")
    example: str = Field(description="A value as it may look.")
    default: str | None = Field(default=None, description="Its value when a connection gives none.")
    values: tuple[str, ...] = Field(default=(), description="The only values there are; none means any of its kind.")

    @model_validator(mode="after")
    def _own_values_fit(self) -> ProviderParameter:
        for name in ("example", "default"):
            value = getattr(self, name)
            if value is not None and self.mistake(value):
                raise ValueError(f"{name} does not fit the kind of the parameter")
        return self

    def mistake(self, value: str) -> str | None:
        """What a value must look like, when this one does not; None when it fits."""
        if self.values and value not in self.values:
            return f"one of: {', '.join(self.values)}"
        return None if _VALUES[self.kind].fullmatch(value) else _FORMS[self.kind]


def placeholders(template: str) -> tuple[str, ...]:
    """The names between braces, in order."""
    return tuple(PLACEHOLDER.findall(template))


def template_mistake(template: str, parameters: Mapping[str, ProviderParameter]) -> str | None:
    """Why the template is not usable with these parameters; None when it is.

    A subdomain is followed by at least two fixed labels, a host is alone between `https://` and the path, a segment between
    slashes: a value of its kind then stays where it is.
    """
    if mistake := text_mistake(template, parameters):
        return mistake
    for name in placeholders(template):
        parameter = parameters[name]
        if not _PLACES[parameter.kind](name).fullmatch(template):
            return f"has a {parameter.kind.value} parameter in a place of another kind"
    return None


def text_mistake(template: str, parameters: Mapping[str, ProviderParameter]) -> str | None:
    """As `template_mistake`, for a name that no request is sent to: a parameter may be anywhere in it."""
    if _BRACES.search(PLACEHOLDER.sub("", template)):
        return "has a brace without its partner"
    if not set(placeholders(template)) <= parameters.keys():
        return "names a parameter that `parameters` does not declare"
    return None


def filled(template: str, values: Mapping[str, str]) -> str:
    """The address with every placeholder replaced. Raises: KeyError for a missing value; configuration checks come first."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


_ANY_LABELS = rf"(?:(?:{_LABEL}|\{{\w+\}})\.)*"
_REST = r"(?:/[^?#]*)?"
_PLACES: Final = {
    ParameterKind.SUBDOMAIN: lambda name: re.compile(
        rf"https://{_ANY_LABELS}\{{{name}\}}\.{_ANY_LABELS}{_LABEL}\.{_LABEL}{_REST}"
    ),
    ParameterKind.HOST: lambda name: re.compile(rf"https://\{{{name}\}}{_REST}"),
    ParameterKind.SEGMENT: lambda name: re.compile(rf"https://[^/?#]+(?:/[^/?#]+)*?/\{{{name}\}}{_REST}"),
}
