"""What file systems do, and refuse: errors and what they concern, flushes, space, locks, mounts."""
