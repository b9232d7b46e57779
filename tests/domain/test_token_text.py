"""What counts as a credential in the text of others, and what does not."""

from __future__ import annotations

import json
import re
from base64 import b32encode, b64encode, urlsafe_b64encode
from hashlib import sha256
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.domain.text import token_like
from cab.domain.text.token_like import without_tokens

JWT = ".".join(
    urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"none"}', b'{"sub":"x"}', b"signature")
)
RANDOM = urlsafe_b64encode(sha256(b"a").digest()).decode().rstrip("=")
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----"
TOKENS = [
    JWT,
    JWT.rpartition(".")[0],
    "ghp_" + "aB3" * 12,
    "github_pat_" + "aB3" * 12,
    "xoxb-1234567890-abcdef",
    "sk-" + "ab12" * 8,
    "sk_live_" + "ab12" * 6,
    "AKIA" + "ABCD1234" * 2,
    "ya29." + "a0AfH6SM" * 3,
    RANDOM,
    b64encode(sha256(b"b").digest() * 2).decode(),
    PEM,
    sha256(b"x").hexdigest(),
    sha256(b"x").hexdigest().upper()[:40],
    "1000." + sha256(b"x").hexdigest()[:32] + "." + sha256(b"y").hexdigest()[:32],  # Zoho
    "dapi" + sha256(b"x").hexdigest()[:32],  # Databricks
    "1/1204619611402340:" + sha256(b"x").hexdigest()[:32],  # Asana
    "eu1-73c1-6e00-4dd2-8f0fd1d54a5b",  # HubSpot
    "aB3" + "8Q~" + "x.Y_z~1-" * 4,  # Entra, a client's secret
    "shpua_" + "ab12" * 8,
    "glrt-" + "aB3_" * 5,
    "key-" + sha256(b"x").hexdigest()[:32],
    "NRAK-" + "A1B2C3" * 4,
    b32encode(sha256(b"x").digest()).decode().rstrip("="),  # of capitals and digits alone
    b32encode(sha256(b"x").digest()).decode().rstrip("=").lower(),
]
ORDINARY = [
    "opportunity/0061",
    "7b575a84-e337-4c6a-9d2b-0123456789ab",
    "0015g00000XyZabAAB",
    sha256(b"x").hexdigest()[:39],
    "4111" * 10,
    "ListWorkloadIdentityPoolProvidersResponse",
    "invoice202611280000012345678901234567890123",
    "key-" + sha256(b"x").hexdigest()[:31],
    "projects/7b575a84e3374c6a9d2b0123456789ab/pages/7b575a84e3374c6a9d2b0123456789ab",
    "sha-256:" + RANDOM,
    "sha-256:" + sha256(b"x").hexdigest(),
    "Customer_Onboarding_Checklist_For_Globex_2026_v2",
    "https://acme.my.salesforce.com/lightning/r/Account/0015g00000XyZabAAB/view",
    "please ask the sales desk-assistant about risk-averse customers",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("around", ["{}", "see {} please", "a={}&b=1", "key:{}", "https://x.test/?t={}", "Bearer {}"])
def test_a_token_is_replaced_wherever_it_stands(token: str, around: str) -> None:
    safe = without_tokens(around.format(token))
    assert token not in safe
    assert "[token sha-256:" in safe


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_found_behind_percent_encoding(token: str) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in token.encode())
    for text in (encoded, f"q={encoded}", quote(encoded)):
        assert "[token sha-256:" in without_tokens(text)
        assert encoded not in without_tokens(text)


@pytest.mark.parametrize("token", TOKENS)
def test_json_text_stays_json(token: str) -> None:
    safe = json.loads(without_tokens(json.dumps({"note": token, "next": 7})))
    assert safe["next"] == 7
    assert token not in safe["note"]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert without_tokens(text) == text


@pytest.mark.parametrize("text", [*TOKENS, *ORDINARY])
def test_what_was_replaced_once_is_left_alone(text: str) -> None:
    once = without_tokens(text)
    assert without_tokens(once) == once


SHORT = [
    "eyJ" + "a" * 8,
    "ya29." + "a" * 10,
    "xoxb-" + "1" * 10,
    "xapp-" + "a" * 10,
    "-----BEGIN KEY-----",
    "sk-" + "a" * 16,
]
PIECES = st.sampled_from([*TOKENS, *ORDINARY, *SHORT, *'" {}:,%=/\n\t\u00a0\u2028']) | st.text(max_size=12)


@fuzz(1_000)
@given(pieces=st.lists(st.tuples(PIECES, st.integers(0, 3), st.booleans())))
def test_no_text_is_too_short_to_be_searched_that_has_a_token_in_it(pieces: list[tuple[str, int, bool]]) -> None:
    text = "".join(quote(piece[cut:]) if is_encoded else piece[cut:] for piece, cut, is_encoded in pieces)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_LONG", "_AS_LONG_AS_A_RUN"):
            patch.setattr(token_like, name, re.compile(""))
        searched = without_tokens(text)
    assert without_tokens(text) == searched
