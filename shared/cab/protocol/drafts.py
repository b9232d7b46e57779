"""Every string that comes from a specification which is not an RFC yet, with the draft and version it was taken from.

Changing one of these is a protocol change: metadata advertises a draft feature only while it is enabled.
"""

from typing import Final

# draft-ietf-oauth-deferred-token-response-01
DEFERRED_GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:deferred"
COMPLETION_MODE: Final = "completion_mode"
COMPLETION_MODE_DEFERRED: Final = "deferred"
DEFERRAL_CODE: Final = "deferral_code"
INTERACTION_URI: Final = "interaction_uri"

# draft-ietf-oauth-identity-assertion-authz-grant-05
ID_JAG_TYP: Final = "oauth-id-jag+jwt"
ID_JAG_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:id-jag"
ID_JAG_GRANT_PROFILE: Final = "urn:ietf:params:oauth:grant-profile:id-jag"

# draft-ietf-oauth-rfc7523bis-11
CLIENT_AUTHENTICATION_TYP: Final = "client-authentication+jwt"

# draft-mcguinness-oauth-actor-profile-00
SUB_PROFILE_AI_AGENT: Final = "ai_agent"

# draft-ietf-oauth-rar-metadata-remediation-00
DETAILS_METADATA_ENDPOINT: Final = "authorization_details_types_metadata_endpoint"
