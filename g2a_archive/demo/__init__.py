"""The simulated service and its sample media, for the demonstration and the tests.

It needs nothing but the standard library, and nothing of the rest of g2a-archive.
"""

from g2a_archive.demo.behaviour import Behaviour, ManualClock
from g2a_archive.demo.faults import Fault, Rule
from g2a_archive.demo.media import SMALLEST_JPEG, SMALLEST_MP4
from g2a_archive.demo.messages import Request, Response
from g2a_archive.demo.recordings import SimulatedRecording, expected_bytes, sample_recordings
from g2a_archive.demo.requestlog import RequestLog
from g2a_archive.demo.service import SimulatedService

__all__ = [
    "SMALLEST_JPEG",
    "SMALLEST_MP4",
    "Behaviour",
    "Fault",
    "ManualClock",
    "Request",
    "RequestLog",
    "Response",
    "Rule",
    "SimulatedRecording",
    "SimulatedService",
    "expected_bytes",
    "sample_recordings",
]
