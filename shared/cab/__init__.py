"""CAB, the Credential Access Broker. Start reading at docs/architecture.md; the public contract is docs/api.md."""

import gc
import os

# Garbage is looked for every so many new objects. Ahead of all other imports: they make many and hardly any garbage, and looking for
# some was a tenth of the CPU of a start.
gc.set_threshold(100_000, 20, 20)

# No plugin of an installed package sees what is validated, and no start looks for one in all of them.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
