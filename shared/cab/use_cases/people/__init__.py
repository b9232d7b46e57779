"""The pages people see, in the order in which they meet them: `login` (with `idp_metadata`, where the IdP's login
is), `connect` (both consent pages, with `enabled_actions`, what connecting enables), `consent` (from consent
to grant), `approvals` (deciding on one pending action), `account` (what agents did, and the way out); and
`signals`, what the IdP says of them afterwards.
"""
