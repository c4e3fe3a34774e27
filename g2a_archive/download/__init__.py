"""A run: plan, link queue, workers, one transfer's life, and the record of what became of it.

Others use `run.Download`, which does a whole run, and `stopping.StopSwitch`.
"""
