"""One file's life: what to do next, its bytes, its parts, its checks, its flush and its name.

The engine uses `attempt.Fetcher`, `finish.Finisher` and the results.
"""
