"""Who is calling, and on whose behalf. In the order of a request: `authenticate_client` (front ends and agents)
or `authenticate_service` (our own functions), `verify_dpop`, `verify_assertion` or `verify_call_token`, `still_here` (whether the
person may still be acted for). All use `verify_token` (the one way to verify a JWT), `verified_before` (what this instance verified
already), `refused_credentials` (what a refusal says, and to whom).
"""
