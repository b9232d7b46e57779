"""One refresh however many ask, and no token lost by a crash (docs/grants.md): `caller` serves, joins or starts
an attempt; `attempt` is one holder's way through the steps, writing through its `fence`; `escrow` keeps a
token set that the vault refuses; `orphaned_tokens` settles what arrives after its attempt has lost the grant.

Whether and when a refresh is tried again: `attempt` judges each answer (by `cab.protocol.token_refusals`); how long to wait,
and when a token may be sent a second time, are rules of `cab.domain.grant_transitions`.
"""
