"""Proving the archive: every file against its recorded SHA-256, and a catalogue from files.

Others use `audit`, which runs either and says what it found.
"""
