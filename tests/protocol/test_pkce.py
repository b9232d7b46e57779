"""PKCE, method S256."""

from cab.protocol.pkce import code_challenge


def test_the_challenge_is_that_of_the_specifications_own_example() -> None:
    """RFC 7636 appendix B."""
    assert (
        code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )
