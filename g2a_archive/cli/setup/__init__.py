"""The commands around an archive: credentials, settings, a check, and the demonstration."""
