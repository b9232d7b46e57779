"""Commands that look at live systems: `connection`, `idp` and, at a whole deployment, `doctor`."""
