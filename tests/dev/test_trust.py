"""What the systems around a local broker are told of whom to believe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.support.world import ACME, CRM, STS, deployment

from cab.domain.configured.connections import GrantKind, SecretReference
from cab.domain.configured.deployment import Deployment
from cab_dev.trust import connections_at, trust_of
from cab_ops.rotate_keys import new_private_jwk

KEYS = {name: json.dumps(new_private_jwk()) for name in ("cab-assertion-one", "cab-assertion-two")}


def trusting(*changes: dict[str, Any]) -> Deployment:
    """Acme with a connection to the CRM for each of the `changes`."""
    known = deployment(ACME)
    crm = known.connection_by_id["crm"]
    connections = tuple(crm.model_copy(update={"id": f"crm-{n}"} | change) for n, change in enumerate(changes))
    facts = {"subject_token_audience": "cab-at-crm", "assertion_audience": "crm-audience"}
    providers = {**known.provider_by_id, crm.provider: known.provider_by_id[crm.provider].model_copy(update=facts)}
    return replace(known, connections=connections, provider_by_id=providers)


def bearer(client_id: str, key: str) -> dict[str, Any]:
    reference = SecretReference(secret=key)
    return {"grant_kind": GrantKind.JWT_BEARER, "client_id": client_id, "assertion_key": reference}


def test_a_system_knows_the_connections_whose_tokens_it_issues() -> None:
    assert [connection.id for connection in connections_at(deployment(ACME), CRM)] == ["crm"]
    assert connections_at(deployment(ACME), CRM[:-1]) == []


def test_nobody_is_trusted_where_users_consent() -> None:
    assert trust_of(deployment(ACME), CRM, {}) == []


def test_a_connection_with_a_key_is_believed_under_its_client_id_and_only_the_public_half_is_told() -> None:
    told = trusting(
        bearer("cab", "cab-assertion-one"), bearer("cab", "cab-assertion-two"), bearer("other", "cab-assertion-one")
    )
    first, second = trust_of(told, CRM, KEYS)
    assert (first["issuer"], second["issuer"], first["audiences"]) == ("cab", "other", ["crm-audience"])
    assert [key["kid"] for key in first["keys"]] == [json.loads(key)["kid"] for key in KEYS.values()]
    assert [key["kid"] for key in second["keys"]] == [json.loads(KEYS["cab-assertion-one"])["kid"]]
    assert all("d" not in key for entry in (first, second) for key in entry["keys"])


def test_our_sts_is_one_issuer_whatever_it_vouches_with() -> None:
    exchange, jag = {"grant_kind": GrantKind.TOKEN_EXCHANGE}, {"grant_kind": GrantKind.ID_JAG}
    (entry,) = trust_of(trusting(exchange, jag), CRM, {})
    assert entry == {
        "issuer": STS,
        "jwks_uri": f"{STS}/jwks.json",
        "keys": [],
        "audiences": ["cab-at-crm"],
        "id_jags": True,
    }
    (without,) = trust_of(trusting(exchange), CRM, {})
    assert "id_jags" not in without
