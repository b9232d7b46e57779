"""The composition root: settings and configuration in, one request handler out. `shared` has what functions share; each other file
builds one function and imports nothing that another one needs.
"""

import gc

# Cycles are looked for every so many new objects. With the default of 700, the young ones are the requests under way, looked
# at again and again: a twentieth of an exchange's CPU. Here, ahead of all other imports: they make many objects and hardly
# a cycle, and looking for one was a tenth of the CPU of a start.
gc.set_threshold(20_000, 20, 20)
