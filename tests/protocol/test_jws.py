"""The strict verifier against everything a lax one lets through (security.md sections 4 and 7.1, RFC 7515, RFC 8725)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tests.support.jose import ABSENT, b64, ec_key, rsa_key, unb64
from tests.support.vectors import (
    AUDIENCE,
    ISSUER,
    KEY,
    NOW,
    RULES,
    SECONDS,
    WIDE_RULES,
    claims,
    token,
    verify,
    why_rejected,
)

from cab.domain.errors import Claimed
from cab.protocol.jose import jwk, jws

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_a_good_token_gives_its_claims_issuer_and_times() -> None:
    verified = verify(token())
    assert verified == jws.VerifiedClaims(
        claims=claims(),
        issuer=ISSUER,
        expires_at=NOW + timedelta(seconds=300),
        issued_at=NOW,
        checked_at=NOW,
    )


@pytest.mark.requirement("RFC7515-7.1-1")
def test_what_we_sign_another_implementation_verifies() -> None:
    import jwt

    signed = jws.sign(claims(), typ="at+jwt", kid="k1", private_key=KEY.private)
    assert jwt.get_unverified_header(signed) == {"typ": "at+jwt", "alg": "ES256", "kid": "k1"}
    decoded = jwt.decode(
        signed, KEY.private.public_key(), algorithms=["ES256"], audience=AUDIENCE, options={"verify_exp": False}
    )
    assert decoded == claims()


# --- T1: algorithms ---

SPELLINGS_OF_NONE = ("none", "None", "NONE", "nOnE", "", " none", "none ", "none\x00", "n\u200bone")


@pytest.mark.requirement("RFC8725-3.2-1")
@pytest.mark.parametrize("spelling", SPELLINGS_OF_NONE)
@pytest.mark.parametrize("signed", [True, False])
def test_no_spelling_of_alg_none_passes(spelling: str, signed: bool) -> None:
    forged = token(header={"alg": spelling})
    if not signed:
        forged = forged.rpartition(".")[0] + "."
    assert why_rejected(forged) == "alg is not allowed"


@pytest.mark.requirement("RFC8725-3.1-1")
@pytest.mark.parametrize(
    "algorithm",
    [
        "es256",
        "ES256 ",
        "ES384",
        "ES512",
        "ES256K",
        "EdDSA",
        "PS256",
        "RS512",
        "RSA",
        "dir",
        "A128KW",
        "HS256",
        "HS512",
    ],
)
def test_only_the_two_algorithms_of_the_broker_exist(algorithm: str) -> None:
    assert why_rejected(token(header={"alg": algorithm})) == "alg is not allowed"


@pytest.mark.parametrize("algorithm", [["ES256"], {"ES256": 1}, None, True, 0, 256, 1.5, ABSENT, [], [["ES256"]]])
def test_an_alg_that_is_not_text_is_refused(algorithm: Any) -> None:
    assert why_rejected(token(header={"alg": algorithm})) == "alg is not allowed"


@pytest.mark.requirement("RFC8725-3.1-1")
def test_a_key_verifies_only_with_the_algorithm_it_is_bound_to() -> None:
    rsa = rsa_key("other")
    assert why_rejected(token(key=rsa)) == "alg is not allowed for this key"
    assert why_rejected(token(key=rsa), key=rsa) == "alg is not allowed for this key"  # the kind allows ES256 only
    assert verify(token(key=rsa, header={"typ": "JWT"}), key=rsa, rules=WIDE_RULES)
    assert why_rejected(token(header={"typ": "JWT", "alg": "RS256"}), rules=WIDE_RULES)


def _as_hmac_secret() -> dict[str, bytes]:
    """Our public key in every encoding somebody might have used as an HMAC secret (T2)."""
    encodings: dict[str, bytes] = {}
    for key in (KEY, rsa_key("other")):
        public = key.private.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        name = key.algorithm
        encodings |= {
            f"{name} PEM": pem,
            f"{name} PEM without the last newline": pem.rstrip(),
            f"{name} PEM with CRLF": pem.replace(b"\n", b"\r\n"),
            f"{name} PEM with BOM": b"\xef\xbb\xbf" + pem,
            f"{name} DER": der,
            f"{name} DER in base64": base64.b64encode(der),
            f"{name} DER in base64url": b64(der).encode(),
            f"{name} JWK": json.dumps(key.jwk).encode(),
            f"{name} compact JWK": json.dumps(key.jwk, separators=(",", ":")).encode(),
            f"{name} JWK set": json.dumps({"keys": [key.jwk]}).encode(),
        }
    encodings["nothing"] = b""
    encodings["kid"] = KEY.kid.encode()
    return encodings


@pytest.mark.requirement("RFC8725-3.1-1")
@pytest.mark.parametrize("encoding", _as_hmac_secret().values(), ids=_as_hmac_secret().keys())
def test_a_public_key_is_never_an_hmac_secret(encoding: bytes) -> None:
    for declared, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512), ("ES256", hashlib.sha256)):
        header, payload, _ = token(header={"alg": declared}).split(".")
        mac = hmac.new(encoding, f"{header}.{payload}".encode(), digest).digest()
        assert why_rejected(f"{header}.{payload}.{b64(mac)}")


# --- T3, T4: keys and extensions chosen by the sender ---

CHOSEN_BY_THE_SENDER: dict[str, Any] = {
    "crit": ["exp"],
    "b64": False,
    "zip": "DEF",
    "cty": "JWT",
    "jku": "https://evil.test/keys",
    "x5u": "https://evil.test/cert",
    "x5c": ["MIIB"],
    "jwk": ec_key("evil").jwk,
}


@pytest.mark.requirement("RFC8725-3.10-1")
@pytest.mark.requirement("RFC7515-4.1.11-1")
@pytest.mark.parametrize("member", CHOSEN_BY_THE_SENDER)
@pytest.mark.parametrize("empty", [False, True])
def test_a_header_that_chooses_key_or_encoding_is_refused(member: str, empty: bool) -> None:
    value = None if empty else CHOSEN_BY_THE_SENDER[member]
    assert why_rejected(token(header={member: value})) == "a header member is not allowed"


@pytest.mark.requirement("RFC8725-3.10-1")
def test_a_token_signed_by_the_key_in_its_own_header_is_refused() -> None:
    evil = ec_key("evil")
    assert why_rejected(token(key=evil, header={"jwk": evil.jwk})) == "a header member is not allowed"
    assert why_rejected(token(key=evil, header={"kid": KEY.kid})) == "signature does not verify"


@pytest.mark.requirement("RFC8725-3.10-1")
@pytest.mark.parametrize(
    "kid",
    [
        "../../etc/passwd",
        "/dev/null",
        "a/b",
        "https://evil.test/k",
        "k' OR '1'='1",
        "k\x00",
        "k\n",
        "",
        "k" * 500,
        "ключ",
        "T8q+ZK06a0I0vpYnBN/cugV8xAPV5wXv4uYrrpwwSNK0=",
        "20190204-00:00:00",
    ],
)
def test_a_kid_is_any_text_because_it_is_only_compared(kid: str) -> None:
    assert jws.parse(token(header={"kid": kid})).kid == kid


@pytest.mark.parametrize("header", [{"kid": ABSENT}, {"kid": None}])
def test_a_token_may_name_no_key(header: dict[str, Any]) -> None:
    assert jws.parse(token(header=header)).kid is None


@pytest.mark.parametrize(
    ("said", "client_id", "issuer"),
    [
        ({"iss": "app", "sub": "app"}, "app", "app"),
        ({"iss": "https://idp.test", "sub": "alice"}, None, "https://idp.test"),
        ({"iss": ABSENT, "sub": "app"}, "app", None),
        ({"iss": "https://idp.test", "azp": "web", "sub": "alice"}, "web", "https://idp.test"),
        ({"iss": "https://idp.test", "azp": "web", "client_id": "app"}, "app", "https://idp.test"),
        ({"iss": 7, "sub": 7, "azp": ["web"]}, None, None),
    ],
)
def test_what_a_refused_token_says_of_its_sender_is_read_without_belief(
    said: dict[str, Any], client_id: str | None, issuer: str | None
) -> None:
    text = token(**said)
    claimed = jws.claimed_by(text)
    assert (claimed.client_id, claimed.issuer) == (client_id, issuer)
    head, payload, signature = text.split(".")
    for broken in (f"{head}.{payload}", f"!.{payload}.!", f"{text}.more.parts"):
        assert jws.claimed_by(broken) == claimed
    for unreadable in ("", head, f"{head}.{payload}x.{signature}", f"{head}.{payload}.{'s' * jws.MAX_TOKEN_CHARS}"):
        assert jws.claimed_by(unreadable) == Claimed()


@pytest.mark.parametrize("kid", [7, True, ["k"], {"k": 1}])
def test_a_kid_that_is_not_text_is_refused(kid: Any) -> None:
    assert why_rejected(token(header={"kid": kid})) == "kid is malformed"


@pytest.mark.requirement("CAB-1.21-3")
@pytest.mark.requirement("RFC7515-7.1-1")
@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "e30.e30",
        token() + ".",
        "." + token(),
        token() + ".e30",
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..aXY.Y2lwaGVydGV4dA.dGFn",  # JWE
        json.dumps({"payload": "e30", "protected": "e30", "signature": "e30"}),  # JSON serialization
        " " + token(),
        token() + "\n",
        token().replace(".", " . ", 1),
    ],
)
def test_only_the_compact_form_of_three_parts_is_read(text: str) -> None:
    assert why_rejected(text)


# --- typ: one kind is never another (T5) ---


@pytest.mark.requirement("RFC8725-3.11-1")
@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "cab-assertion+jwt", "logout+jwt", "at+jwt ", "at", "", "at+jwt;v=1", ABSENT, "secevent+jwt"]
)
def test_another_typ_than_the_kind_has_is_refused(typ: Any) -> None:
    assert why_rejected(token(header={"typ": typ})) == "typ is not of this kind of token"


@pytest.mark.parametrize("typ", [["at+jwt"], None, 1, {"at+jwt": True}])
def test_a_typ_that_is_not_text_is_refused(typ: Any) -> None:
    assert why_rejected(token(header={"typ": typ})) in ("typ is malformed", "typ is not of this kind of token")


@pytest.mark.requirement("RFC9068-2.1-1")
def test_typ_is_compared_without_regard_to_case() -> None:
    assert verify(token(header={"typ": "AT+JWT"}))


# --- issuer and audience ---


@pytest.mark.requirement("RFC8725-3.8-1")
@pytest.mark.parametrize(
    "issuer",
    [
        ISSUER + "/",
        ISSUER.upper(),
        ISSUER + " ",
        "https://ISSUER.test",
        "http://issuer.test",
        "https://issuer.test:443",
        "https://issuer.test.",
        "https://issuеr.test",  # a Cyrillic letter
        "https://issuer.test?",
        "https://user@issuer.test",
        "https://issuer.test%2f",
    ],
)
def test_the_issuer_is_compared_byte_for_byte(issuer: str) -> None:
    assert why_rejected(token(iss=issuer)) == "iss is not the expected issuer"


@pytest.mark.parametrize("issuer", [ABSENT, None, "", [ISSUER], 7, "a" * 501, "a\x00b", "a\u202eb"])
def test_a_malformed_issuer_is_not_even_looked_up(issuer: Any) -> None:
    with pytest.raises(jws.TokenRejected, match="iss is missing or malformed"):
        _ = jws.parse(token(iss=issuer)).unverified_issuer
    assert why_rejected(token(iss=issuer)) == "iss is not the expected issuer"


@pytest.mark.requirement("RFC8725-3.9-1")
@pytest.mark.parametrize(
    "audience",
    [
        ABSENT,
        None,
        "",
        [],
        {},
        7,
        True,
        "https://other.test",
        AUDIENCE + "/",
        AUDIENCE.upper(),
        [AUDIENCE],
        [AUDIENCE, "https://other.test"],
        [[AUDIENCE]],
    ],
)
def test_own_kinds_want_exactly_one_audience_as_text(audience: Any) -> None:
    assert why_rejected(token(aud=audience)) in (
        "aud is missing or malformed",
        "aud must be a single string",
        "aud is not us",
    )


def test_several_audiences_pass_only_where_the_kind_allows_and_only_with_ours_among_at_most_a_hundred() -> None:
    def wide(audience: Any) -> str:
        return token(header={"typ": "JWT"}, aud=audience)

    assert verify(wide([AUDIENCE, "https://other.test"]), rules=WIDE_RULES)
    assert verify(wide(["https://other.test"] * 99 + [AUDIENCE]), rules=WIDE_RULES)
    assert why_rejected(wide(["https://other.test"] * 100 + [AUDIENCE]), rules=WIDE_RULES)
    assert why_rejected(wide(["https://other.test"]), rules=WIDE_RULES) == "aud is not us"
    for member in ({"aud": AUDIENCE}, 7, None, [AUDIENCE]):
        assert why_rejected(wide([member, AUDIENCE]), rules=WIDE_RULES) == "aud is missing or malformed"


def test_one_audience_may_stand_in_an_array_where_the_kind_allows_it_and_no_second_beside_it() -> None:
    rules = replace(RULES, one_element_audience=True)
    (ours,) = RULES.audiences
    assert verify(token(aud=[ours]), rules=rules)
    for audience in ([ours, "https://other.test"], ["https://other.test", ours], [[ours]], []):
        with pytest.raises(jws.TokenRejected, match="aud"):
            verify(token(aud=audience), rules=rules)


def test_a_hundred_thousand_audiences_are_refused_by_length_alone() -> None:
    assert why_rejected(token(aud=[AUDIENCE] * 100_000)) == "too long"


# --- times ---

ABSURD = [
    "1795262700",
    True,
    False,
    None,
    [SECONDS + 300],
    {},
    -5,
    1.5,
    SECONDS + 0.5,
    2**53,
    10**30,
    10**400,
    1e300,
    "NaN",
    "",
]


@pytest.mark.requirement("RFC7519-2-1")
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", ABSURD, ids=repr)
def test_a_time_that_is_not_a_whole_number_of_seconds_is_refused(claim: str, value: Any) -> None:
    assert why_rejected(token(**{claim: value}))


WITH_FRACTIONS = replace(RULES, fractions=True)


@pytest.mark.requirement("RFC7519-2-1")
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_a_fraction_of_a_second_is_refused_in_our_own_kinds_and_counts_in_those_of_others(claim: str) -> None:
    times: dict[str, Any] = {"exp": SECONDS + 100, "nbf": SECONDS - 5, claim: SECONDS + 0.5}
    text = token(**times)
    assert why_rejected(text) == f"{claim} is not a whole number of seconds"
    assert verify(text, rules=WITH_FRACTIONS).expires_at > NOW


def test_an_end_with_a_fraction_is_kept_to_the_fraction() -> None:
    text = token(exp=SECONDS + 10.5)
    assert verify(text, rules=WITH_FRACTIONS).expires_at == NOW + timedelta(seconds=10.5)
    assert verify(text, rules=WITH_FRACTIONS, now=NOW + timedelta(seconds=40.4))
    assert why_rejected(text, rules=WITH_FRACTIONS, now=NOW + timedelta(seconds=40.5)) == "expired"


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [it for it in ABSURD if it not in (1.5, SECONDS + 0.5)] + [-0.5], ids=repr)
def test_a_time_that_is_no_sane_number_is_refused_with_fractions_too(claim: str, value: Any) -> None:
    assert why_rejected(token(**{claim: value}), rules=WITH_FRACTIONS)


@pytest.mark.parametrize("literal", ["1.795262460e9", "1795262460.0", "17952624600e-1"])
def test_a_whole_number_written_as_a_float_is_a_whole_number(literal: str) -> None:
    text = json.dumps(claims(exp="HERE")).replace('"HERE"', literal)
    assert verify(KEY.sign(text.encode(), {"typ": "at+jwt"})).expires_at == NOW + timedelta(seconds=60)


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf", "auth_time"])
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000])
def test_a_number_json_cannot_carry_is_refused(claim: str, literal: str) -> None:
    text = json.dumps(claims(**{claim: "HERE"})).replace('"HERE"', literal)
    assert why_rejected(KEY.sign(text.encode(), {"typ": "at+jwt"})) == "payload is not a strict JSON object"


@pytest.mark.requirement("RFC7519-4.1.4-1")
def test_a_token_ends_thirty_seconds_after_its_exp_and_no_later() -> None:
    ends = datetime.fromtimestamp(SECONDS + 300, UTC)
    last_moment = ends + timedelta(seconds=29, microseconds=999_999)
    assert verify(token(), now=last_moment)
    with pytest.raises(jws.TokenRejected) as rejected:
        verify(token(), now=ends + timedelta(seconds=30))
    assert rejected.value.expired


def test_other_refusals_do_not_say_expired() -> None:
    with pytest.raises(jws.TokenRejected) as rejected:
        verify(token(aud="https://other.test"))
    assert not rejected.value.expired


@pytest.mark.requirement("CAB-1.21-1")
def test_a_token_without_exp_is_refused() -> None:
    assert why_rejected(token(exp=ABSENT)) == "exp is not a number of seconds"


def test_own_kinds_want_iat() -> None:
    assert why_rejected(token(iat=ABSENT)) == "iat is missing"


def test_a_token_may_live_as_long_as_its_kind_and_not_a_second_more() -> None:
    assert verify(token(exp=SECONDS + 300))
    assert why_rejected(token(exp=SECONDS + 301)) == "lives too long"
    assert why_rejected(token(iat=SECONDS - 1, exp=SECONDS + 300)) == "lives too long"
    assert why_rejected(token(iat=SECONDS, exp=SECONDS)) == "lives too long"  # no life at all
    assert why_rejected(token(iat=SECONDS + 20, exp=SECONDS + 10)) == "lives too long"


def test_without_iat_the_life_counts_from_now() -> None:
    rules = jws.Rules(
        typ=RULES.typ,
        algorithms=RULES.algorithms,
        issuer=ISSUER,
        audiences=RULES.audiences,
        max_life=timedelta(seconds=300),
        issued_at_required=False,
    )
    assert verify(token(iat=ABSENT, exp=SECONDS + 330), rules=rules).issued_at is None
    assert why_rejected(token(iat=ABSENT, exp=SECONDS + 331), rules=rules) == "lives too long"


@pytest.mark.parametrize("years", [1, 10, 300, 5000])
def test_an_end_beyond_a_day_is_refused_whatever_iat_says(years: int) -> None:
    far = SECONDS + years * 365 * 86_400
    assert why_rejected(token(iat=far - 300, exp=far)) == "exp is too far away"


def test_iat_and_nbf_may_lie_thirty_seconds_ahead_and_no_more() -> None:
    assert verify(token(iat=SECONDS + 30, exp=SECONDS + 300))
    assert why_rejected(token(iat=SECONDS + 31, exp=SECONDS + 300)) == "iat is in the future"
    assert verify(token(nbf=SECONDS + 30))
    assert verify(token(nbf=0))
    assert why_rejected(token(nbf=SECONDS + 31)) == "not valid yet"


def test_an_old_iat_is_refused_by_the_life_it_implies() -> None:
    assert why_rejected(token(iat=SECONDS - 10 * 365 * 86_400)) == "lives too long"


# --- strict JSON inside, canonical base64url outside (T6) ---


@pytest.mark.requirement("RFC7519-4-1")
@pytest.mark.parametrize("member", ["sub", "exp", "iss", "aud"])
def test_a_claim_that_stands_twice_is_refused(member: str) -> None:
    text = json.dumps(claims())
    doubled = text[:-1] + f', "{member}": {json.dumps(claims()[member])}' + "}"
    assert why_rejected(KEY.sign(doubled.encode(), {"typ": "at+jwt"})) == "payload is not a strict JSON object"


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"ES256","alg":"none","typ":"at+jwt"}',
        b'{"alg":"none","\\u0061lg":"ES256","typ":"at+jwt"}',
        b'{"alg":"ES256","typ":"at+jwt","typ":"at+jwt"}',
        b'[{"alg":"ES256"}]',
        b'"ES256"',
        b"",
        b"null",
        b'{"alg":"ES256"} {"alg":"none"}',
        b'{"alg":"ES256",}',
        b"{'alg':'ES256'}",
        b'\xef\xbb\xbf{"alg":"ES256","typ":"at+jwt"}',
        '{"alg":"ES256","typ":"at+jwt"}'.encode("utf-16"),
    ],
)
def test_a_header_that_is_not_one_strict_object_is_refused(header: bytes) -> None:
    assert why_rejected(KEY.sign(claims(), header)) == "header is not a strict JSON object"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_a_payload_in_another_encoding_than_plain_utf8_is_refused(encoding: str) -> None:
    text = json.dumps(claims()).encode(encoding)
    assert why_rejected(KEY.sign(text, {"typ": "at+jwt"})) == "payload is not a strict JSON object"


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize(
    "change", ["{}=", "{}==", "{}====", " {}", "{}\n", "{}A", "+{}", "/{}", "{}\u00e9", "{}%3D", "."]
)
def test_a_part_that_is_not_canonical_base64url_is_refused(part: int, change: str) -> None:
    parts = token().split(".")
    parts[part] = change.format(parts[part])
    assert why_rejected(".".join(parts))


@pytest.mark.requirement("RFC7515-2-1")
def test_spare_bits_at_the_end_of_a_part_must_be_zero() -> None:
    header, payload, signature = token().split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(signature) % 4 == 2  # 64 bytes: four spare bits
    spellings = {signature[:-1] + char for char in alphabet} - {signature}
    same_bytes = [other for other in spellings if unb64(other) == unb64(signature)]
    assert len(same_bytes) == 15
    for other in same_bytes:
        assert why_rejected(f"{header}.{payload}.{other}") == "not canonical base64url"


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 70, 128])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    header, payload, signature = token().split(".")
    raw = (unb64(signature) * 2)[:length]
    assert why_rejected(f"{header}.{payload}.{b64(raw)}") == "signature does not verify"


@pytest.mark.parametrize(
    "r_and_s", [(0, 0), (1, 0), (0, 1), (P256_ORDER, 1), (P256_ORDER, P256_ORDER), (2**256 - 1, 1)]
)
def test_signature_numbers_outside_the_group_are_refused(r_and_s: tuple[int, int]) -> None:
    header, payload, _ = token().split(".")
    raw = b"".join(number.to_bytes(32, "big") for number in r_and_s)
    assert why_rejected(f"{header}.{payload}.{b64(raw)}") == "signature does not verify"


def test_a_der_signature_is_refused() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    header, payload, _ = token().split(".")
    der = KEY.private.sign(f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    assert decode_dss_signature(der)
    assert why_rejected(f"{header}.{payload}.{b64(der)}") == "signature does not verify"


def test_the_mirrored_ecdsa_signature_verifies_so_a_token_text_never_names_a_token() -> None:
    """(r, n-s) is a second valid signature of the same content: replay is judged by (iss, jti), never by the text."""
    header, payload, signature = token().split(".")
    raw = unb64(signature)
    mirrored = raw[:32] + (P256_ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    assert verify(f"{header}.{payload}.{b64(mirrored)}").claims["jti"] == "j1"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_changed_part_breaks_the_signature(position: int) -> None:
    other = token(jti="j2", header={"kid": "another"}).split(".")
    parts = token().split(".")
    parts[position] = other[position]
    assert why_rejected(".".join(parts)) == "signature does not verify"


# --- sizes (T7) ---


def token_of(length: int) -> str:
    """A good token of exactly this many characters."""
    for kid in ("k", "kk", "kkk"):
        room = (length - len(token(header={"kid": kid}, filler=""))) * 3 // 4
        for size in range(room - 3, room + 4):
            text = token(header={"kid": kid}, filler="x" * size)
            if len(text) == length:
                return text
    raise AssertionError("no such length")


@pytest.mark.requirement("CAB-1.21-4")
def test_a_token_of_sixteen_kib_is_the_longest() -> None:
    assert verify(token_of(16_384))
    assert why_rejected(token_of(16_385)) == "too long"


def test_a_header_of_eight_kib_is_the_longest() -> None:
    bare = len(token(header={"x": ""}).split(".")[0])
    header = {"x": "y" * ((8192 - bare) * 3 // 4 + 1)}
    assert len(token(header=header).split(".")[0]) == 8192
    assert verify(token(header=header))
    assert why_rejected(token(header={"x": header["x"] + "y"})) == "not a compact JWS"


@pytest.mark.parametrize("text", ["." * 1_000_000, "a" * 1_000_000, "a." * 500_000, "[" * 200_000])
def test_huge_input_is_refused_before_it_is_decoded(text: str) -> None:
    assert why_rejected(text) == "too long"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ya29.a0AfH6SMBx", "not a compact JWS"),
        ("00QAV1HYkFQdEs", "an opaque token, no JWS"),
        ("", "not a compact JWS"),
        ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aXY.Y2lwaGVy.dGFn", "encrypted (a JWE): ask for a signed token"),
        *((around, "something stands around the token") for around in ("Bearer {}", '"{}"', "{}\n", " {}", "{}==")),
    ],
)
def test_what_clients_send_in_place_of_a_signed_token_has_a_cause_of_its_own(text: str, why: str) -> None:
    assert why_rejected(text.format(token())).startswith(why)


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_deep_nesting_is_refused_without_recursion(bracket: str) -> None:
    deep = (bracket * 2000).encode()
    assert why_rejected(KEY.sign(deep, {"typ": "at+jwt"})) == "payload is not a strict JSON object"


# --- claims as callers read them ---


@pytest.mark.parametrize(
    "subject", [ABSENT, None, "", 7, ["s"], "s" * 256, "a\x00b", "a\nb", "a\u202eb", "a\u200bb", "\ue000", "\ufeff"]
)
def test_a_text_claim_is_one_to_255_printable_characters(subject: Any) -> None:
    verified = verify(token(sub=subject))
    with pytest.raises(jws.TokenRejected, match="sub is missing or malformed"):
        verified.text("sub")


def test_a_lone_surrogate_is_refused_where_it_stands() -> None:
    text = json.dumps(claims()).replace("somebody", "\\ud800")
    assert why_rejected(KEY.sign(text.encode(), {"typ": "at+jwt"})) == "payload is not a strict JSON object"


def test_optional_claims_are_none_or_well_formed() -> None:
    verified = verify(token(auth_time=SECONDS, acr="gold"))
    assert (verified.optional_time("auth_time"), verified.optional_time("other")) == (SECONDS, None)
    assert (verified.optional_text("acr"), verified.optional_text("other")) == ("gold", None)
    malformed = verify(token(auth_time="today", acr=7))
    with pytest.raises(jws.TokenRejected):
        malformed.optional_time("auth_time")
    with pytest.raises(jws.TokenRejected):
        malformed.optional_text("acr")


def test_a_time_with_a_fraction_is_read_rounded_down_where_the_kind_may_have_one() -> None:
    verified = verify(token(auth_time=SECONDS + 0.9))
    assert verified.optional_time("auth_time", fractions=True) == SECONDS
    with pytest.raises(jws.TokenRejected, match="whole number"):
        verified.optional_time("auth_time")


def test_headers_a_kind_carries_by_design_are_allowed_one_by_one() -> None:
    carrying = token(header={"jwk": KEY.jwk})
    assert jws.parse(carrying, allowed_headers=frozenset({"jwk"})).header["jwk"] == KEY.jwk
    with pytest.raises(jws.TokenRejected):
        jws.parse(token(header={"jwk": KEY.jwk, "jku": "https://evil.test"}), allowed_headers=frozenset({"jwk"}))


def test_a_key_of_another_type_than_the_signature_fails_cleanly() -> None:
    rsa = rsa_key("other")
    forged = token(header={"typ": "JWT", "alg": "RS256", "kid": rsa.kid})
    assert why_rejected(forged, key=rsa, rules=WIDE_RULES) == "signature does not verify"
    assert jwk.parse(rsa.jwk).algorithm == "RS256"
