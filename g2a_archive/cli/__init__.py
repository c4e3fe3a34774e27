"""The command line: commands, options, settings, and where errors become sentences and exit codes.

`main` is the command tree; each command's work is in the module of its name, and what all share in
`options`, `settings` and `run`. Nothing else imports click; nobody imports from here.
"""
