"""The edge: an IdP login in, an assertion out, in `mint_assertion`. The IdP token stops here."""
