"""JSON without loopholes: one meaning or none (security.md section 4)."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pydantic_core
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.encoding import strict_json


@pytest.mark.parametrize("body", [b'\xef\xbb\xbf{"a":1}', b'\xef\xbb\xbf {"a":1}\r\n', b'{"a":1}'])
def test_a_published_document_may_begin_with_a_byte_order_mark(body: bytes) -> None:
    assert strict_json.load_document(body) == {"a": 1}


@pytest.mark.parametrize("body", [b'\xef\xbb\xbf\xef\xbb\xbf{"a":1}', b'{"a":1}\xef\xbb\xbf', b"\xef\xbb\xbf", b"[]"])
def test_a_published_document_has_no_other_mark(body: bytes) -> None:
    with pytest.raises(strict_json.InvalidJson):
        strict_json.load_document(body)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda body: zlib.compress(body)[2:-4]])
def test_a_published_document_may_be_compressed_though_nobody_asked(pack: Callable[[bytes], bytes]) -> None:
    """As caches do that keep one form of it. It was an outage of the identity provider."""
    assert strict_json.load_document(pack(b'\xef\xbb\xbf{"a":1}')) == {"a": 1}
    for no_document in (pack(b'{"a":1,"a":2}'), pack(b'{"a":"%s"}' % (b"x" * 1_048_576)), pack(b'{"a":1}')[:-1]):
        with pytest.raises(strict_json.InvalidJson):
            strict_json.load_document(no_document)


REFUSED = [
    b"",
    b" ",
    b"nul",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"[1e999]",
    b"9" * 5000,
    b"01",
    b"+1",
    b".5",
    b"1.",
    b"0x10",
    b"'a'",
    b'"a',
    b'"\n"',
    b'"\x00"',
    b'"\\x41"',
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'["\\ud800"]',
    b'{"\\ud800":1}',
    b"[1,]",
    b'{"a":1,}',
    b'{"a" 1}',
    b"{1:2}",
    b'{"a":1,"a":1}',
    b'{"a":1,"\\u0061":2}',
    b'{"x":{"a":1,"b":2,"a":3}}',
    b'[{"a":1,"a":2}]',
    b"1 2",
    b"[] []",
    b"/* c */ 1",
    b"// c\n1",
    b"\xef\xbb\xbf1",
    b"\xff",
    b'"\xc0\xaf"',
    b'"\xed\xa0\x80"',
    "{}".encode("utf-16"),
    "{}".encode("utf-32"),
    b"[" * 21 + b"]" * 21,
    b'{"a":' * 21 + b"1" + b"}" * 21,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"]" * 100_000,
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_what_has_no_single_meaning_is_refused(text: bytes) -> None:
    with pytest.raises(strict_json.InvalidJson) as refused:
        strict_json.loads(text)
    assert len(str(refused.value)) < 40  # a fixed phrase, never the input


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"null", None),
        (b' {"a" : [1, -2, 3.5, true, "x"]} ', {"a": [1, -2, 3.5, True, "x"]}),
        (b'"\\ud83d\\ude00"', "😀"),
        ('"😀"'.encode(), "😀"),
        (b'"\\u0000"', "\x00"),
        (b'"[[[[[[[[[[[[[[[[[[[[[[[[["', "[" * 25),
        (b'"\\"[[[[[[[[[[[[[[[[[[[[[[["', '"' + "[" * 23),
        (b"[" * 20 + b"]" * 20, json.loads("[" * 20 + "]" * 20)),
        (b"[[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[]]", [[]] * 22),
        (b'{"a":{"b":1},"c":{"b":2}}', {"a": {"b": 1}, "c": {"b": 2}}),
        (str(2**70).encode(), 2**70),
    ],
)
def test_what_has_one_meaning_is_read(text: bytes, value: Any) -> None:
    assert strict_json.loads(text) == value


COMPACT = st.recursive(st.none() | st.text("[]{}"), lambda inner: st.lists(inner, max_size=3), max_leaves=12)


@given(COMPACT, st.integers(0, 6), st.booleans())
def test_how_deep_a_text_nests_is_judged_the_same_however_it_is_written(value: Any, most: int, spaced: bool) -> None:
    def depth(inner: Any) -> int:
        return 1 + max(map(depth, inner), default=0) if isinstance(inner, list) else 0

    text = json.dumps(value, separators=(" ,", ": ") if spaced else (",", ":"))
    if depth(value) <= most:
        assert strict_json.loads(text, max_depth=most) == value
    else:
        with pytest.raises(strict_json.InvalidJson, match="nested too deep"):
            strict_json.loads(text, max_depth=most)


def test_a_compact_text_of_many_brackets_is_not_read_by_the_slow_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of a call has more of them than may nest."""

    class Unused:
        def decode(self, text: str) -> Any:
            raise AssertionError(text)

    monkeypatch.setattr(strict_json, "_DECODER", Unused())
    many = [{"a": [number]} for number in range(100)]
    assert strict_json.loads(json.dumps(many, separators=(",", ":"))) == many


@pytest.mark.parametrize("text", [b"[]", b"1", b'"{}"', b"null", b"true"])
def test_an_object_is_asked_for_and_nothing_else_passes(text: bytes) -> None:
    with pytest.raises(strict_json.InvalidJson, match="not an object"):
        strict_json.load_object(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
PUNCTUATION = ["{", "}", "[", "]", ",", ":", '"', "\\", "-", ".", "+", " ", "\n", "\x00", "\x7f", "\ufeff"]
WORDS = [
    "\\u",
    "d800",
    "dc00",
    "0061",
    "a",
    "0",
    "1",
    "e",
    "E",
    "é",
    "null",
    "true",
    "NaN",
    "Infinity",
    "1e400",
    "9" * 400,
]
fragments = st.sampled_from([*PUNCTUATION, *WORDS, '"a":1', '"a":'])


@given(st.binary(max_size=60) | st.lists(fragments, max_size=25).map("".join).map(str.encode))
@example(b'{"a":1,"a":2}')
@fuzz(750)
def test_arbitrary_bytes_are_read_as_a_second_strict_parser_reads_them_or_refused(data: bytes) -> None:
    try:
        value = strict_json.loads(data)
    except strict_json.InvalidJson:
        return
    assert value == pydantic_core.from_json(data, allow_inf_nan=False)


@given(values)
@fuzz(125)
def test_every_ordinary_value_survives(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    depth = max(
        (sum({"[": 1, "{": 1, "]": -1, "}": -1}.get(char, 0) for char in text[:end]) for end in range(len(text) + 1)),
        default=0,
    )
    if depth > strict_json.MAX_DEPTH:
        return
    assert strict_json.loads(text.encode()) == value
    assert strict_json.loads(json.dumps(value)) == value


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=1), st.data())
@fuzz(75)
def test_a_member_that_stands_twice_is_refused_at_any_depth(members: dict[str, int], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(members)))
    doubled = json.dumps(members)[:-1] + f", {json.dumps(name)}: 0}}"
    for text in (doubled, f"[{doubled}]", f'{{"in": {doubled}}}'):
        with pytest.raises(strict_json.InvalidJson):
            strict_json.loads(text)


@given(
    values, st.sampled_from([json.dumps, lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)])
)
@example(1e22, json.dumps)
@example(-0.0, json.dumps)
@example(2**70, json.dumps)
@fuzz(125)
def test_what_is_written_compactly_is_read_as_everything_else_is(value: Any, write: Callable[[Any], str]) -> None:
    text = write(value)
    try:
        slowly = strict_json.loads(" " + text)  # a blank before it is not how programs write
    except strict_json.InvalidJson:
        with pytest.raises(strict_json.InvalidJson):
            strict_json.loads(text)
        return
    assert repr(strict_json.loads(text)) == repr(slowly)
