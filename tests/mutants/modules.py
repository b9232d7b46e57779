"""The critical modules, and for each the files whose tests hold it, the quickest first. All of them run in process."""

_EXCHANGE = "tests/functions/test_exchange_token.py"
_GRANT = ("tests/grants/test_transitions.py", "tests/grants/test_refresh.py", "tests/grants/test_orphaned_tokens.py")
_FAULTS = ("tests/grants/test_provider_faults.py", "tests/grants/test_clocks.py", "tests/grants/test_sweep.py")
_KINDS = ("tests/functions/test_token_kinds.py", "tests/functions/test_trusted_grants.py")
_APPROVALS = (
    "tests/functions/test_confirmation.py",
    "tests/functions/test_approval_integrity.py",
    "tests/transport/test_approvals.py",
)

TESTS_OF: dict[str, tuple[str, ...]] = {
    "domain/grant_transitions.py": (
        *_GRANT,
        *_FAULTS,
        "tests/grants/test_narrowing.py",
        "tests/grants/test_idle.py",
        "tests/grants/test_move.py",
    ),
    "domain/token_life.py": ("tests/domain/test_token_life.py", _EXCHANGE),
    "protocol/tokens/assertions.py": ("tests/protocol/test_assertions.py", "tests/functions/test_mint_assertion.py"),
    "protocol/tokens/id_tokens.py": ("tests/protocol/test_id_tokens.py", "tests/functions/test_mint_assertion.py"),
    "protocol/tokens/dpop.py": ("tests/protocol/test_dpop.py", "tests/functions/test_dpop.py"),
    "protocol/jose/jws.py": ("tests/protocol/test_jws.py", "tests/protocol/test_assertions.py"),
    "protocol/pkce.py": ("tests/protocol/test_pkce.py", "tests/transport/test_connect_flow.py"),
    "protocol/token_responses.py": (
        "tests/protocol/test_token_responses.py",
        "tests/protocol/test_token_refusals.py",
        *_GRANT,
    ),
    "stores/approvals.py": ("tests/stores/test_approvals.py", *_APPROVALS),
    "stores/limits.py": ("tests/stores/test_limits.py", _EXCHANGE),
    "use_cases/audit/auditor.py": (
        "tests/use_cases/test_auditing.py",
        "tests/functions/test_auditing.py",
        "tests/functions/test_what_events_say.py",
        "tests/functions/test_refused_credentials.py",
    ),
    "use_cases/calls/execute.py": ("tests/use_cases/test_execute_call.py",),
    "use_cases/calls/answers.py": ("tests/use_cases/test_call_answers.py",),
    "use_cases/calls/call.py": ("tests/functions/test_call_tool.py", "tests/functions/test_mcp.py"),
    "use_cases/exchange/confirm.py": ("tests/use_cases/test_confirm.py", *_APPROVALS),
    "use_cases/exchange/decide.py": (
        "tests/use_cases/test_assess_intent.py",
        _EXCHANGE,
        "tests/use_cases/test_trust_zones.py",
        "tests/functions/test_explanations.py",
        "tests/cli/test_explain.py",
    ),
    "use_cases/people/approvals.py": ("tests/use_cases/test_decide_confirmation.py", *_APPROVALS),
    "use_cases/exchange/issue.py": (
        "tests/use_cases/test_issue_token.py",
        _EXCHANGE,
        *_KINDS,
        "tests/functions/test_dpop.py",
    ),
    "use_cases/grants/kept_tokens.py": (
        "tests/use_cases/test_kept_tokens.py",
        "tests/use_cases/test_trusted_tokens.py",
    ),
    "use_cases/grants/refresh/attempt.py": (*_GRANT, *_FAULTS, "tests/grants/test_store_faults.py"),
    "use_cases/grants/serve.py": (
        "tests/functions/test_refresh_grants_callers.py",
        *_KINDS,
        "tests/functions/test_narrowed_grants.py",
        "tests/grants/test_provider_faults.py",
    ),
    "use_cases/identity/verify_dpop.py": ("tests/functions/test_dpop.py",),
    "use_cases/identity/verify_assertion.py": ("tests/use_cases/test_verify_subject.py", _EXCHANGE),
}
