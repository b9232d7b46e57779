"""Who may call what.

`projects`: the two names of a project; `table`: what a method needs, and who has it; `roles.json`: what Google's roles give.
"""
