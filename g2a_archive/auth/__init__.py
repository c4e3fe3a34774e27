"""Where an access token comes from: given, granted, or signed in; and the files of secrets.

Others use `credentials` and, for `login`, `login`.
"""
