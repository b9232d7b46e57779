"""The demo's sales assistant: a scripted agent without a model, written as an outsider would write one, with `cab_client`.

It knows the broker by its public contract alone. It holds its own key, the user's assertion, and one narrow token at a time;
it never sees a credential of the user.
"""
