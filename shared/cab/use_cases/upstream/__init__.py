"""The broker as an OAuth client of downstream providers: `users` (who a user is there), `servable` (may this grant
serve), `provider_client` (the calls), `answers` (what an answer says), `revoke` (RFC 7009, where that ends no more than it should).
"""
