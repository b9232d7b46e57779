"""Why a request is answered as it is: the exchange's own checks, told in words."""
