"""Ten million grants and 5,000 exchanges a second in virtual time, by the product's own rules.

rules      what the product's functions say of one grant: when its token is renewed, when it is visited, how long a failure pauses it
grants     all grants, those who use them, the sweep, and providers that fail: is there a herd, a hot document, a growing backlog?
memories   what instances remember, and so how often an exchange asks refresh_grants and writes a counter: by number of instances
pressure   more requests than instances can carry: what is refused, and how soon that is over
"""
