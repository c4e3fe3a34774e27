"""File hosts that cannot be reached: who asks them, and who waits for what comes of it."""

from __future__ import annotations

import pytest

from g2a_archive.download.hosts import Hosts

LINK, ELSEWHERE = "https://host.example/a", "https://other.example/a"


@pytest.fixture
def hosts() -> Hosts:
    """One host was not reached three times in a row; it may be asked from 10 s on."""
    made = Hosts()
    for _ in range(3):
        made.unreachable(LINK, "connection refused", 10.0, last=False)
    return made


def test_one_asks_for_all_and_the_others_look_what_came_of_it(hosts: Hosts) -> None:
    """A host that is back in a moment must not cost its files a minute."""
    assert hosts.wait_until(LINK, 9.5) == 10.0
    assert hosts.wait_until(ELSEWHERE, 9.5) == 9.5
    assert hosts.wait_until(LINK, 10.0) == 10.0  # this one asks
    again = hosts.wait_until(LINK, 10.0)
    assert again == 11.0
    hosts.answered(LINK)
    assert hosts.wait_until(LINK, again) == again


def test_a_host_that_is_given_up_is_asked_once_in_a_while(hosts: Hosts) -> None:
    hosts.unreachable(LINK, "connection refused", 20.0, last=True)
    assert hosts.wait_until(LINK, 19.0) is None
    assert hosts.wait_until(LINK, 20.0) == 20.0
    assert hosts.wait_until(LINK, 79.0) is None
    assert hosts.wait_until(LINK, 80.0) == 80.0
