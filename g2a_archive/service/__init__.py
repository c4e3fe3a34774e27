"""The vendor's four calls: paced, retried, their answers checked.

Others use `client.Service`, `session` to build one, and the limits of rate in `pace`.
"""
