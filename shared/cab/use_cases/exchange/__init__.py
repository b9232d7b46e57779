"""Intent in, short-lived narrow token out (RFC 8693). In running order:

`endpoint` authenticates the agent and picks the flow; `request` reads what is asked; `identify` verifies on whose
behalf; `steps` tells the rest on one page, with `decide` (the checks), `confirm` (the user's yes, asked for and spent), `issue` (the
token) and `record` (what the audit learns). The other flows share those steps: `id_jag` (the IdP's word instead
of an assertion), `deferral` (polling while a person decides), `delegate` (a narrower assertion for the next
agent). `calls` has what agents need that hold no tokens. `inspect` answers introspection and revocation.
"""
