"""Who may call what: `projects` are known by two names, `table` looks up what a method needs and who has it, `roles.json` what Google's roles give."""
