"""One refresh however many ask, and no token lost by a crash (docs/grants.md): `caller` serves, joins or starts
an attempt; `attempt` is one holder's way through the steps, writing through its `fence`; `escrow` keeps a
token set that the vault refuses; `orphaned_tokens` settles what arrives after its attempt has lost the grant.
"""
