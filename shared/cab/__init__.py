"""CAB, the Credential Access Broker. Start reading at docs/architecture.md; the public contract is docs/api.md."""

import os

# No plugin of an installed package sees what is validated, and no start looks for one in all of them.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
