"""One file's life: what to do next, its bytes, its parts, its checks, its flush and its name.

The engine uses the results, its threads `attempt.fetch`, `sharing.help_fetch` and
`finish.Finisher`.
"""
