"""Proving the archive: every file against its recorded SHA-256, and a catalogue from files.

Others use `verify` and `rebuild`, which do their work with an open catalogue, and say what they
found in a `FixityResult`; `VerifyOptions` choose the files.
"""
