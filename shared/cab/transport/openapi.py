"""The public HTTP API as an OpenAPI 3.1 document, made from the same models and the same error table that serve it.

Pages for people (/connect, /approvals, /me) are no API and stay out.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from cab.domain.errors import Reason
from cab.domain.intents import DeclaredIntent
from cab.domain.tasks import Task
from cab.encoding.json_schema import schema_of
from cab.protocol import drafts, names
from cab.protocol.metadata import DETAILS_METADATA_PATH, JWKS_PATHS, METADATA_PATHS, TOOLS_METADATA_PATH
from cab.protocol.oauth_errors import TABLE

PATH: Final = "/oauth2/openapi.json"
VERSION: Final = (
    "1.0.0"  # of the API: a new optional member is a minor change, anything a client may trip over a major one
)
PAGE_REASONS: Final = frozenset(
    {
        Reason.CSRF_INVALID,
        Reason.STATE_INVALID,
        Reason.STATE_OVER,
        Reason.STATE_USED,
        Reason.ISSUER_MISMATCH,
        Reason.LOGIN_FAILED,
        Reason.LOGIN_CANCELLED,
        Reason.CONSENT_REFUSED,
        Reason.AUTHORIZATION_FAILED,
        Reason.CLIENT_MISCONFIGURED,
        Reason.NO_AUTHORIZATION_CODE_GRANT,
    }
)

Json = dict[str, Any]


def document(origin: str) -> Json:
    """The whole document for the deployment at `origin`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CAB, the Credential Access Broker",
            "version": VERSION,
            "summary": "AI agents act as one user, with that user's rights, and never hold real credentials.",
            "description": _INTRODUCTION,
            "license": {"name": "See the repository"},
        },
        "servers": [{"url": origin}],
        "tags": [
            {"name": "edge", "description": "For front ends: an ID token in, an assertion out."},
            {
                "name": "oauth2",
                "description": "For agents and tool servers: an assertion and an intent in, a token out.",
            },
            {
                "name": "tools",
                "description": "For agents in call mode: a call token and a tool in, the platform's answer out.",
            },
            {"name": "metadata", "description": "Public and cacheable."},
        ],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "responses": _responses(),
            "headers": _HEADERS,
            "parameters": {"DPoP": _DPOP},
            "securitySchemes": {
                "client_secret_basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "RFC 6749 section 2.3.1; only for agents whose entry allows it.",
                },
                "call_token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "at+jwt",
                    "description": "A token for the resource `ORIGIN/mcp`; with the scheme DPoP where it is bound to a key.",
                },
            },
        },
    }


_INTRODUCTION: Final = (
    "Clients authenticate with a signed JWT in `client_assertion` (RFC 7523 section 2.2, or a workload identity token of "
    "a configured issuer) whose `aud` is the issuer of the endpoint called; some agents with a secret, in HTTP Basic or in the "
    "form, as their entry says. Every error has "
    "`error`, `reason_code` and `txn`. More reason codes may be added: treat one you do not know by its `error`."
)

_HEADERS: Final[Json] = {
    "CAB-Txn": {"description": "Names this answer in the audit log.", "schema": {"type": "string"}},
    "No-Store": {"description": "Tokens and errors are never cached.", "schema": {"const": "no-store"}},
    "Retry-After": {
        "description": "Seconds until a retry makes sense.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "Allow": {"description": "The methods of this path.", "schema": {"type": "string"}},
    "WWW-Authenticate": {
        "description": "Of the token endpoints only where the client tried HTTP Basic (RFC 6749 section 5.2).",
        "schema": {"type": "string"},
    },
    "ETag": {"description": "Of these bytes, at every instance (RFC 9110).", "schema": {"type": "string"}},
}
_DPOP: Final[Json] = {
    "name": "DPoP",
    "in": "header",
    "required": False,
    "description": "A proof of possession for POST and this URL (RFC 9449). Binds what is issued to its key.",
    "schema": {"type": "string"},
}


# --- paths ---


def _paths() -> Json:
    paths: Json = {
        "/edge/token": _post(
            "edge",
            "mintAssertion",
            "Mint an assertion for a user who is logged in",
            request="MintRequest",
            success=_json("AssertionResponse", "The assertion."),
            dpop=True,
        ),
        "/oauth2/token": _post(
            "oauth2",
            "exchangeToken",
            "Exchange an assertion and an intent for a token; poll a deferred exchange; redeem an ID-JAG",
            request="TokenRequest",
            success=_json("TokenResponse", "The token, or a narrower assertion for the next agent."),
            dpop=True,
        ),
        "/oauth2/introspect": _post(
            "oauth2",
            "introspectToken",
            "Ask what a token of this broker is good for (RFC 7662)",
            request="TokenReference",
            success=_json("IntrospectionResponse", "Active with its claims, or not active and nothing else."),
        ),
        "/oauth2/revoke": _post(
            "oauth2",
            "revokeToken",
            "End a token before its time (RFC 7009)",
            request="TokenReference",
            success={"description": "An empty body, also for a token that is unknown.", "headers": _common_headers()},
        ),
        "/oauth2/outcomes": _report_outcome(),
        "/tools/call": _call_tool(),
        "/tools": _list_tools(),
        TOOLS_METADATA_PATH: _get(
            "getToolsMetadata", "The tools as a protected resource (RFC 9728)", "ProtectedResource", tagged=False
        ),
        DETAILS_METADATA_PATH: _get("getDetailsTypes", "JSON Schemas of intents and tasks", "DetailsTypes"),
        PATH: _get("getOpenApi", "This document", "OpenApi"),
        "/health": _get("getHealth", "Whether the function answers", "Health", cacheable=False),
    }
    for path in sorted(METADATA_PATHS):
        paths[path] = _get(f"getMetadata{_camel(path)}", "Authorization server metadata (RFC 8414)", "Metadata")
    for issuer, path in JWKS_PATHS.items():
        paths[path] = _get(f"get{issuer.capitalize()}Keys", "Public keys (RFC 7517)", "JwkSet")
    return paths


def _camel(path: str) -> str:
    words = path.replace("/", "-").replace(".", "-").split("-")
    return "".join(word.capitalize() for word in words)


def _post(tag: str, operation: str, summary: str, *, request: str, success: Json, dpop: bool = False) -> Json:
    statuses = ("400", "401", "405", "413", "415", "429", "500", "503")
    return {
        "post": {
            "tags": [tag],
            "operationId": operation,
            "summary": summary,
            # `client_assertion` of the form authenticates too; OpenAPI has no name for that, hence the empty alternative.
            "security": [{}] if tag == "edge" else [{"client_secret_basic": []}, {}],
            "parameters": [{"$ref": "#/components/parameters/DPoP"}] if dpop else [],
            "requestBody": {
                "required": True,
                "content": {names.FORM_MEDIA_TYPE: {"schema": _ref(request)}},
            },
            "responses": {"200": success}
            | {status: {"$ref": f"#/components/responses/Error{status}"} for status in statuses},
        }
    }


def _report_outcome() -> Json:
    statuses = ("400", "401", "405", "409", "413", "415", "500", "503")
    return {
        "post": {
            "tags": ["oauth2"],
            "operationId": "reportOutcome",
            "summary": "Say what came of a token that was handed to you, or that you serve as its resource",
            "security": [{"client_secret_basic": []}, {}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("OutcomeReport")}}},
            "responses": {
                "204": {"description": "It is on record, also if it was before.", "headers": _common_headers()}
            }
            | {status: {"$ref": f"#/components/responses/Error{status}"} for status in statuses},
        }
    }


def _call_tool() -> Json:
    made = ("400", "404", "405", "409", "413", "415", "429", "500", "502", "503", "504")
    return {
        "post": {
            "tags": ["tools"],
            "operationId": "callTool",
            "summary": "Have a tool called with the user's own token, or go on with a call that waited for the user",
            "security": [{"call_token": []}],
            "parameters": [{"$ref": "#/components/parameters/DPoP"}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("ToolCall")}}},
            "responses": {"200": _json("ToolResult", "The platform answered, be it with a no.")}
            | {status: {"$ref": f"#/components/responses/Error{status}"} for status in made}
            | _challenges(),
        }
    }


def _list_tools() -> Json:
    return {
        "get": {
            "tags": ["tools"],
            "operationId": "listTools",
            "summary": "What this agent may have called for this user and task; being listed promises nothing",
            "security": [{"call_token": []}],
            "parameters": [{"$ref": "#/components/parameters/DPoP"}],
            "responses": {"200": _json("ToolList", "The tools.")}
            | {status: {"$ref": f"#/components/responses/Error{status}"} for status in ("400", "405", "500", "503")}
            | _challenges(),
        }
    }


def _challenges() -> Json:
    """What another token would mend: said by the status and `WWW-Authenticate`, with the errors of RFC 6750 and RFC 9470."""
    headers = _common_headers() | {
        "WWW-Authenticate": {
            "description": "The error, where to get a token (RFC 9728), and which scopes or login it needs.",
            "schema": {"type": "string"},
            "required": True,
        }
    }
    content = {"application/json": {"schema": _ref("Error")}}
    return {
        "401": {
            "description": "invalid_token, insufficient_user_authentication",
            "headers": headers,
            "content": content,
        },
        "403": {"description": "insufficient_scope", "headers": headers, "content": content},
    }


def _get(operation: str, summary: str, schema: str, *, cacheable: bool = True, tagged: bool = True) -> Json:
    headers = {
        "Cache-Control": {"schema": {"type": "string"}, "description": "How long the answer may be kept."},
    } | ({"ETag": _header("ETag")} if tagged else {})
    success = {
        "description": summary,
        "headers": headers if cacheable else {},
        "content": {"application/json": {"schema": _ref(schema)}},
    }
    refusals = ("405", "503") if cacheable else ()
    unchanged = {"304": {"description": "What `If-None-Match` names is current.", "headers": headers}}
    responses = (
        {"200": success}
        | (unchanged if cacheable and tagged else {})
        | {status: {"$ref": f"#/components/responses/Error{status}"} for status in refusals}
    )
    return {"get": {"tags": ["metadata"], "operationId": operation, "summary": summary, "responses": responses}}


def _json(schema: str, description: str) -> Json:
    content = {"application/json": {"schema": _ref(schema)}}
    return {"description": description, "headers": _common_headers(), "content": content}


def _ref(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _header(name: str, *, required: bool = True) -> Json:
    header: Json = _HEADERS[name] | {"required": required}
    return header


def _common_headers() -> Json:
    return {"CAB-Txn": _header("CAB-Txn"), "Cache-Control": _header("No-Store")}


# --- errors, from the table ---


def _api_reasons() -> dict[int, dict[str, list[str]]]:
    """Reason codes by status and OAuth error."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for reason, (error, status) in TABLE.items():
        if reason not in PAGE_REASONS:
            found[status][error].append(reason.value)
    return found


def _responses() -> Json:
    return {f"Error{status}": _error_response(status, errors) for status, errors in sorted(_api_reasons().items())}


def _error_response(status: int, errors: dict[str, list[str]]) -> Json:
    """Exactly the pairs of the table: a reason never comes with another error or status."""
    pairs = [
        {"properties": {"error": {"const": error}, "reason_code": {"enum": sorted(reasons)}}}
        for error, reasons in sorted(errors.items())
    ]
    headers = _common_headers()
    if status in (429, 503):
        headers["Retry-After"] = _header("Retry-After")
    if status == 405:
        headers["Allow"] = _header("Allow")
    if status == 401:
        headers["WWW-Authenticate"] = _header("WWW-Authenticate", required=False)
    codes = ", ".join(sorted(errors))
    schema = {"allOf": [_ref("Error"), {"anyOf": pairs}]}
    return {"description": codes, "headers": headers, "content": {"application/json": {"schema": schema}}}


_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error", "reason_code", "txn"],
    "properties": {
        "error": {"type": "string", "description": "OAuth error code."},
        "reason_code": {"type": "string", "description": "Why exactly. Stable; more may be added."},
        "error_description": {"type": "string", "description": "A fixed sentence for people."},
        "txn": {"type": "string", "description": "Names this answer in the audit log."},
        "parameter": {"type": "string", "description": "The parameter or member at fault, never its value."},
        "interaction_uri": {"type": "string", "format": "uri", "description": "Where the user can change it."},
        "acr_values": {"type": "string", "description": "With insufficient_user_authentication (RFC 9470)."},
        "max_age": {"type": "integer", "minimum": 0, "description": "With insufficient_user_authentication."},
        "deferral_code": {"type": "string", "description": "What to poll with (grant type deferred)."},
        "interval": {"type": "integer", "minimum": 1, "description": "Shortest pause between polls, seconds."},
        "expires_in": {"type": "integer", "minimum": 0, "description": "How long the user has to answer, seconds."},
    },
}


# --- requests and answers ---


def _schemas() -> Json:
    return {
        "Error": _ERROR,
        "Intent": _part(DeclaredIntent),
        "Task": _part(Task),
        **_parts_of(DeclaredIntent),
        **_parts_of(Task),
        **_requests(),
        **_answers(),
        **_tools(),
    }


_COMPONENT: Final = "#/components/schemas/{model}"


def _part(model: type[DeclaredIntent] | type[Task]) -> Json:
    schema = schema_of(model, references=_COMPONENT)
    schema.pop("$defs", None)
    return schema


def _parts_of(model: type[DeclaredIntent] | type[Task]) -> Json:
    parts: Json = schema_of(model, references=_COMPONENT).get("$defs", {})
    return parts


def _text(description: str) -> Json:
    return {"type": "string", "description": description}


def _details(schema: str, description: str) -> Json:
    """A form field whose text is a JSON array of exactly one detail (RFC 9396 section 2)."""
    content = {"type": "array", "minItems": 1, "maxItems": 1, "items": _ref(schema)}
    return _text(description) | {"contentMediaType": "application/json", "contentSchema": content}


def _client_members(*, secret: bool) -> Json:
    posted = {"client_secret": _text("Only for agents whose entry says client_secret_post, and then the only method.")}
    return (posted if secret else {}) | {
        "client_id": _text("Optional, but for `client_secret`; must be the client that authenticates."),
        "client_assertion_type": {"const": names.CLIENT_ASSERTION_TYPE},
        "client_assertion": _text("A JWT signed by the client, or a workload identity token. Single use when signed."),
    }


def _form(required: list[str], members: Json, *, secret: bool = True) -> Json:
    return {"type": "object", "required": required, "properties": members | _client_members(secret=secret)}


def _tools() -> Json:
    open_object: Json = {"type": "object"}
    texts = {"type": "string"}
    return {
        "ToolCall": {
            "oneOf": [
                {
                    "type": "object",
                    "required": ["tool"],
                    "additionalProperties": False,
                    "properties": {
                        "tool": _text("As the list names it."),
                        "arguments": open_object | {"description": "As its `input_schema` says."},
                        "reason": _text("Why, for people.") | {"maxLength": 500},
                        "call_id": _text("The caller's own name for this call.") | {"maxLength": 128},
                        drafts.COMPLETION_MODE: {"const": drafts.COMPLETION_MODE_DEFERRED},
                    },
                },
                {
                    "type": "object",
                    "required": [drafts.DEFERRAL_CODE],
                    "additionalProperties": False,
                    "properties": {drafts.DEFERRAL_CODE: _text("Of a call that waited for a person.")},
                },
            ]
        },
        "ToolResult": {
            "type": "object",
            "required": ["outcome", "result", "upstream", "trust", "source", "request_digest", "call_id", "txn"],
            "properties": {
                "outcome": {"enum": ["done", "rejected"]},
                "result": {"description": "What the platform answered, reduced; null when it said no."},
                "result_salt": _text("With it, the commitment on record can be checked."),
                "upstream": {"type": "object", "properties": {"status": {"type": "integer"}}},
                "retry_after_s": {"type": "integer", "minimum": 0},
                "trust": {"const": "untrusted"},
                "source": _text("The connection whose words these are."),
                "authorization_details": {"type": "array", "items": open_object},
                "intent_hash": texts,
                "request_digest": _text("Of what was approved, decided and sent."),
                "call_id": texts,
                "audit": {"const": "pending"},
                "txn": texts,
            },
        },
        "ToolList": {
            "type": "object",
            "required": ["tools"],
            "properties": {
                "tools": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": [
                            "name",
                            "title",
                            "description",
                            "input_schema",
                            "action",
                            "effect",
                            "mode",
                            "resource",
                        ],
                        "properties": {
                            "name": texts,
                            "title": texts,
                            "description": texts,
                            "input_schema": open_object,
                            "annotations": open_object,
                            "action": texts,
                            "effect": {"enum": ["read", "write", "destructive"]},
                            "mode": {"enum": ["call", "both", "token"]},
                            "resource": texts,
                        },
                    },
                }
            },
        },
        "ProtectedResource": {
            "type": "object",
            "required": ["resource", "authorization_servers"],
            "properties": {
                "resource": {"type": "string", "format": "uri"},
                "authorization_servers": {"type": "array", "items": {"type": "string", "format": "uri"}},
                "scopes_supported": {"type": "array", "items": texts},
                "bearer_methods_supported": {"type": "array", "items": texts},
                "dpop_signing_alg_values_supported": {"type": "array", "items": texts},
                "authorization_details_types_supported": {"type": "array", "items": texts},
            },
        },
    }


def _requests() -> Json:
    target = {
        "resource": _text("The registered resource URI, exactly. Give this or `audience`."),
        "audience": _text("The id of the connection."),
        "scope": _text("Fewer scopes than the action needs; usually left out."),
        drafts.COMPLETION_MODE: {"const": drafts.COMPLETION_MODE_DEFERRED},
        "rejected_token_sha256": _text("Lower-case hex SHA-256 of a token that the platform has just refused.")
        | {"pattern": "^[0-9a-f]{64}$"},
    }
    subject = {"subject_token": _text("The assertion."), "subject_token_type": {"const": names.JWT_TYPE}}
    actor = {
        "actor_token": _text("Of the authenticated agent itself; needs `actor_token_type`."),
        "actor_token_type": {"enum": [names.JWT_TYPE, names.ID_TOKEN_TYPE]},
    }
    exchange = {"grant_type": {"const": names.TOKEN_EXCHANGE}}
    return {
        "MintRequest": _form(
            ["grant_type", "subject_token", "subject_token_type", "requested_token_type", "audience"],
            exchange
            | {
                "subject_token": _text("The user's ID token, issued to this front end's client."),
                "subject_token_type": {"const": names.ID_TOKEN_TYPE},
                "requested_token_type": {"const": names.JWT_TYPE},
                "audience": _text("The issuer of the token endpoint."),
                "may_act": _text("The agent that may use the assertion; optional when the front end has a default."),
                "authorization_details": _details("Task", "What the user asked for."),
            },
            secret=False,
        ),
        "TokenRequest": {
            "oneOf": [
                _ref(name) for name in ("ExchangeRequest", "DelegationRequest", "IdJagRequest", "DeferredRequest")
            ]
        },
        "ExchangeRequest": _form(
            ["grant_type", "subject_token", "subject_token_type"],
            exchange
            | subject
            | actor
            | target
            | {
                "requested_token_type": {"const": names.ACCESS_TOKEN_TYPE},
                "authorization_details": _details("Intent", "What the agent is about to do."),
            },
        ),
        "DelegationRequest": _form(
            ["grant_type", "subject_token", "subject_token_type", "requested_token_type", "audience", "may_act"],
            exchange
            | subject
            | actor
            | {
                "requested_token_type": {"const": names.JWT_TYPE},
                "audience": _text("The issuer of the token endpoint."),
                "may_act": _text("The next agent."),
                "authorization_details": _details("Task", "A smaller task."),
            },
        ),
        "IdJagRequest": _form(
            ["grant_type", "assertion"],
            {"grant_type": {"const": names.JWT_BEARER}, "assertion": _text("An ID-JAG made for this client.")}
            | target
            | {"authorization_details": _details("Intent", "What the agent is about to do.")},
        ),
        "DeferredRequest": _form(
            ["grant_type", drafts.DEFERRAL_CODE],
            {
                "grant_type": {"const": drafts.DEFERRED_GRANT_TYPE},
                drafts.DEFERRAL_CODE: _text("From the pending answer."),
            },
        ),
        "OutcomeReport": {
            "type": "object",
            "required": ["outcome"],
            "additionalProperties": False,
            "properties": {
                "outcome": {"enum": ["done", "rejected", "failed", "not_used", "unknown"]},
                "token_sha256": _text("Lower-case hex SHA-256 of the token. Give this or `token`.")
                | {"pattern": "^[0-9a-f]{64}$"},
                "token": _text(
                    "The token itself, where it is a JWT of this broker. A resource server always gives it."
                ),
                "txn": _text("Which hand-out is meant, where the same token was given for several intents."),
                "intent_hash": _text("As `txn`."),
                "upstream_status": {"type": "integer", "minimum": 100, "maximum": 599},
                "upstream_request_id": _text("The platform's own name for the request.") | {"maxLength": 200},
                "request_digest": _text("Of the request that was sent."),
            }
            | _client_members(secret=True),
        },
        "TokenReference": _form(
            ["token"], {"token": _text("The token."), "token_type_hint": _text("Ignored; every kind is recognised.")}
        ),
    }


def _answers() -> Json:
    txn = _text("Joins everything that belongs to one assertion in the audit log.")
    granted = {"type": "array", "minItems": 1, "maxItems": 1, "items": _ref("Intent")}
    lifetime = {"type": "integer", "minimum": 0, "description": "Seconds."}
    actor: Json = {
        "type": "object",
        "required": ["sub", "iss"],
        "properties": {"sub": {"type": "string"}, "iss": {"type": "string"}, "act": _ref("Actor")},
    }
    return {
        "AssertionResponse": {
            "type": "object",
            "required": ["access_token", "issued_token_type", "token_type", "expires_in", "txn"],
            "properties": {
                "access_token": _text("The assertion."),
                "issued_token_type": {"const": names.JWT_TYPE},
                "token_type": {"const": names.NOT_AN_ACCESS_TOKEN},
                "expires_in": lifetime | {"maximum": 300},
                "txn": txn,
            },
        },
        "AccessTokenResponse": {
            "type": "object",
            "required": [
                *("access_token", "issued_token_type", "token_type", "expires_in"),
                *("scope", "authorization_details", "txn"),
            ],
            "properties": {
                "access_token": _text("The platform's own token, or a JWT of this broker."),
                "issued_token_type": {"const": names.ACCESS_TOKEN_TYPE},
                "token_type": {"enum": ["Bearer", "DPoP"]},
                "expires_in": lifetime,
                "scope": _text("What was granted."),
                "authorization_details": granted,
                "narrowed": {"const": False, "description": "The platform cannot give less than the whole grant."},
                "txn": txn,
            },
            "not": {"required": ["refresh_token"]},
        },
        "TokenResponse": {"oneOf": [_ref("AccessTokenResponse"), _ref("AssertionResponse")]},
        "IntrospectionResponse": {"oneOf": [_ref("ActiveToken"), _ref("InactiveToken")]},
        "InactiveToken": {
            "type": "object",
            "required": ["active"],
            "properties": {"active": {"const": False}},
            "additionalProperties": False,
        },
        "ActiveToken": {
            "type": "object",
            "required": [
                "active",
                "token_type",
                "iss",
                "sub",
                "client_id",
                "aud",
                "act",
                "exp",
                "iat",
                "txn",
                "tenant",
            ],
            "properties": {
                "active": {"const": True},
                "token_type": {"enum": ["Bearer", "DPoP"]},
                **{name: {"type": "string"} for name in ("iss", "sub", "client_id", "aud", "scope", "tenant", "jti")},
                "act": _ref("Actor"),
                "authorization_details": granted,
                "txn": txn,
                "exp": {"type": "integer"},
                "iat": {"type": "integer"},
            },
        },
        "Actor": actor,
        "Metadata": {
            "type": "object",
            "required": [
                *("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "introspection_endpoint"),
                *("revocation_endpoint", "response_types_supported", "grant_types_supported"),
            ],
        },
        "JwkSet": {
            "type": "object",
            "required": ["keys"],
            "properties": {"keys": {"type": "array", "minItems": 1, "items": _ref("PublicKey")}},
        },
        "PublicKey": {
            "type": "object",
            "required": ["kty", "kid", "use", "alg", "crv", "x", "y"],
            "properties": {"kty": {"const": "EC"}, "use": {"const": "sig"}, "alg": {"const": "ES256"}},
            "not": {"required": ["d"]},
        },
        "DetailsTypes": {
            "type": "object",
            "required": [names.ACTION_TYPE, names.TASK_TYPE],
            "additionalProperties": {"type": "object", "required": ["schema"]},
        },
        "OpenApi": {"type": "object", "required": ["openapi", "info", "paths"]},
        "Health": {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}},
    }
