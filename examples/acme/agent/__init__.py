"""The demo's sales assistant: a scripted agent without a model, written as an outsider would write one.

It knows the broker only by its public contract and talks to it through a public OAuth client library. It holds its own
key, the user's assertion, and one narrow token at a time; it never sees a credential of the user.
"""
