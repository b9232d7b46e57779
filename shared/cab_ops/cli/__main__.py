"""`python -m cab_ops.cli`, the same as the installed command `cab`."""

from cab_ops.cli import main

main(prog_name="cab")
