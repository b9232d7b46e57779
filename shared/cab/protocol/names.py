"""Registered names of the adopted RFCs: grant types, token types, media types."""

from typing import Final

# RFC 8693 sections 2.1 and 3
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"
ID_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:id_token"
JWT_TYPE: Final = "urn:ietf:params:oauth:token-type:jwt"
NOT_AN_ACCESS_TOKEN: Final = "N_A"
# RFC 7523 sections 2.1 and 2.2
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
CLIENT_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Header `typ` values, lower case
ASSERTION_TYP: Final = "cab-assertion+jwt"  # ours
ACCESS_TOKEN_TYP: Final = "at+jwt"  # RFC 9068 section 2.1
DPOP_TYP: Final = "dpop+jwt"  # RFC 9449 section 4.2
# authorization_details types (RFC 9396)
TASK_TYPE: Final = "cab_task"
ACTION_TYPE: Final = "cab_action"

FORM_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
