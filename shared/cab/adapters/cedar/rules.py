"""Cedar policy files taken apart into rules: one per policy, with its @id, its annotations and the line it starts on.

Cedar's parser reports no positions, so files are cut at their `;` first and every policy is parsed on its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import cedarpy
from cedarpy import pst

from cab.adapters.configuration.problems import Problem, choose_from
from cab.domain.identifiers import is_printable
from cab.values import immutable

RULE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
ANNOTATIONS = ("id", "confirm", "max_age", "acr", "description")
ONLY_ON_PERMIT = ("confirm", "max_age", "acr")
MAX_PROMPT = 200
LONGEST_MAX_AGE_S = 86_400

_TOKEN = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|;|\n|[^\S\n]+|[^\s;"/]+|.', re.DOTALL)


@immutable
class PolicyStatement:
    """The text of one policy, from its first token to its `;`, and the line of its first token."""

    text: str
    line: int


@immutable
class Rule:
    """One policy. `file` and `line` say where it is, `form` is its syntax tree."""

    id: str
    file: str
    line: int
    text: str
    form: pst.Template
    confirm: str | None = None
    max_age_s: int | None = None
    acr_values: tuple[str, ...] = ()

    @property
    def permits(self) -> bool:
        return self.form.effect == "permit"


def statements(text: str) -> Iterator[PolicyStatement]:
    """Cut Cedar text at every `;` outside strings and comments. A last policy without `;` is yielded as it is."""
    line, start, start_line = 1, None, 1
    for token in _TOKEN.finditer(text):
        word = token.group()
        if start is None and not word.isspace() and not word.startswith("//"):
            start, start_line = token.start(), line
        if word == ";" and start is not None:
            yield PolicyStatement(text[start : token.end()], start_line)
            start = None
        line += word.count("\n")
    if start is not None:
        yield PolicyStatement(text[start:], start_line)


def read_rules(files: Iterable[tuple[str, str]]) -> tuple[list[Rule], list[Problem]]:
    """Every rule of the files (name, Cedar text), and every mistake: syntax, templates, annotations, missing or repeated @id."""
    rules: list[Rule] = []
    problems: list[Problem] = []
    seen: dict[str, Rule] = {}
    for file, text in files:
        found_any = False
        for statement in statements(text):
            found_any = True
            rule, mistakes = _read_rule(file, statement)
            problems += mistakes
            if rule is None:
                continue
            if first := seen.get(rule.id):
                problems.append(
                    Problem(
                        file,
                        rule.line,
                        f'@id("{rule.id}") is already used at {first.file}:{first.line}',
                        "give every policy an @id of its own",
                    )
                )
                continue
            seen[rule.id] = rule
            rules.append(rule)
        if not found_any:
            problems.append(Problem(file, 1, "the file holds no policy", "add a policy or remove the file"))
    return rules, problems


def _syntax_error(text: str) -> str | None:
    try:
        cedarpy.policies_to_pst(text)
    except ValueError as exc:
        return str(exc)
    return None


def _line_of_syntax_error(statement: PolicyStatement, message: str) -> int:
    """The first line at which the parser already says the same: Cedar gives no position of its own."""
    lines = statement.text.split("\n")
    if message == "unexpected end of input":
        return statement.line + len(lines) - 1
    if message.startswith(("unexpected", "invalid token")):
        for count in range(1, len(lines)):
            if _syntax_error("\n".join(lines[:count])) == message:
                return statement.line + count - 1
        return statement.line + len(lines) - 1
    return statement.line


def _read_rule(file: str, statement: PolicyStatement) -> tuple[Rule | None, list[Problem]]:
    try:
        parsed = cedarpy.policies_to_pst(statement.text)
    except ValueError as exc:
        message = str(exc)
        line = _line_of_syntax_error(statement, message)
        unended = message in ("unexpected end of input", "unexpected token `@`")  # `@` begins the next policy
        remedy = "end every policy with `;`" if unended else "correct the Cedar syntax here"
        return None, [Problem(file, line, f"not valid Cedar: {message}", remedy)]
    if parsed.templates or len(parsed.static_policies) != 1:
        return None, [
            Problem(
                file,
                statement.line,
                "templates (?principal, ?resource) are never linked by the broker",
                "name the principal and the resource, or move the condition into `when`",
            )
        ]
    (form,) = parsed.static_policies.values()
    problems = [Problem(file, statement.line, message, remedy) for message, remedy in _annotation_mistakes(form)]
    if problems:
        return None, problems
    notes = form.annotations
    rule = Rule(
        id=notes["id"],
        file=file,
        line=statement.line,
        text=statement.text,
        form=form,
        confirm=notes.get("confirm"),
        max_age_s=int(notes["max_age"]) if "max_age" in notes else None,
        acr_values=tuple(notes["acr"].split()) if "acr" in notes else (),
    )
    return rule, []


def _annotation_mistakes(form: pst.Template) -> Iterator[tuple[str, str]]:
    """What is wrong with the annotations, and the remedy. Unknown names are mistakes: a misspelt @confirm would simply permit."""
    notes = form.annotations
    if not RULE_ID.fullmatch(notes.get("id", "")):
        yield "the policy has no usable @id", 'write @id("short-name") above it: letters, digits, . _ -, at most 80'
    for name in notes:
        if name not in ANNOTATIONS:
            yield f"@{name} is not an annotation the broker knows", choose_from(name, ANNOTATIONS, otherwise="")
        if form.effect == "forbid" and name in ONLY_ON_PERMIT:
            yield f"@{name} on a forbid has no meaning", "put it on the permit, or remove it"
    if "confirm" in notes and not is_printable(notes["confirm"], max_length=MAX_PROMPT):
        yield "@confirm has no sentence to show", f"write one line of at most {MAX_PROMPT} characters for the user"
    if "max_age" in notes and not (
        re.fullmatch(r"[1-9][0-9]{0,4}", notes["max_age"]) and int(notes["max_age"]) <= LONGEST_MAX_AGE_S
    ):
        yield "@max_age is not a number of seconds", f'write @max_age("300"): 1 to {LONGEST_MAX_AGE_S}'
    if "acr" in notes and not re.fullmatch(r"[\x21-\x7E]+( [\x21-\x7E]+)*", notes["acr"]):
        yield "@acr names no authentication level", 'write @acr("level") or several levels separated by one space'
