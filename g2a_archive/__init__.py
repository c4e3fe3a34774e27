"""Archives GoToAssist Remote Support session recordings: whole, verified, resumable."""

__version__ = "0.2.0"
