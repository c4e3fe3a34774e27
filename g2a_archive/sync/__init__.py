"""Finding what is new: list windows, what `sync` remembers, transcode, mark.

Others use `run.Sync` and, for `list`, `listing` and `windows`.
"""
