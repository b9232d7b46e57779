"""JSON Web Signatures and keys (RFC 7515, RFC 7517), verified in one place."""
