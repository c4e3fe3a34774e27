"""How a test starts simulated services."""

from __future__ import annotations

from collections.abc import Callable

from g2a_archive.demo import SimulatedService

Serve = Callable[..., SimulatedService]
"""The `serve` fixture: `serve(recordings or their number, latency=0.1, ...)`."""
