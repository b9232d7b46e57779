"""What refresh_grants does with stored grants. `serve` takes the request and hands it to one of the ways to a
token: `refresh` (the crash-safe refresh), `narrow` (a smaller token made from the grant's own) or `trusted`
(the organisation's word, no consent), with `kept_tokens` in memory. `uses` puts on record that somebody uses a grant.
Then what ends and tends grants: `revoke`, `replaced_tokens` (of consents that were replaced), `reinstate`,
`move` (from one storage to the other), and `sweep`, which spares providers that have `outages`.
"""
