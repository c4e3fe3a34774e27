"""What people and programs read: bars, lines, log, summary, JSON report, metrics, error file.

Nothing else imports rich. What is here is told what happened, and decides nothing.
"""
