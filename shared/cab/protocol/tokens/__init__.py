"""The claims of each kind of token, one module per kind: what makes it that kind and no other."""
