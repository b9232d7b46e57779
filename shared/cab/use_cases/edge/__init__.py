"""The edge: an IdP login in, an assertion out. `request` reads what is asked, `mint_assertion` does it. The IdP token stops here."""
