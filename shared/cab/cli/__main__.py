"""`python -m cab.cli`, the same as the installed command `cab`."""

from cab.cli import main

main(prog_name="cab")
