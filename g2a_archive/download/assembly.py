"""Builds what a run needs to talk HTTP: service, workers' tools, limits."""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from g2a_archive.archive import checksums
from g2a_archive.download.jobs import make_task
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.download.transfer.receive import Tools
from g2a_archive.errors import ExitCode
from g2a_archive.models import Failure, RunSettings, pluralize
from g2a_archive.service.client import Service
from g2a_archive.service.pace import RateLimiter, backoff
from g2a_archive.service.session import ApiSession, Authorizer
from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.hosts import CircuitBreaker

if TYPE_CHECKING:
    from g2a_archive.archive.database.catalog import Catalog
    from g2a_archive.archive.storage import Storage
    from g2a_archive.console.report import Report
    from g2a_archive.download.plan import Plan

log = logging.getLogger("g2a_archive")

_FILES_A_JOB = 6
"""A file, a connection, and connections that are kept for four other hosts."""

_OTHER_FILES = 48
"""The catalogue, the terminal, logs, directories, link calls; files that wait for their flush."""


def make_service(settings: RunSettings, authorizer: Authorizer, switch: StopSwitch) -> Service:
    """The service's calls, with this run's settings."""
    session = ApiSession(
        settings.api_url,
        authorizer,
        timeout=settings.timeout,
        retries=settings.retries,
        stop=switch.event,
        shard=settings.shard,
    )
    return Service(session, id_attribute=settings.id_attribute, ids_in=settings.ids_in)


def make_tools(settings: RunSettings, storage: Storage, switch: StopSwitch) -> Tools:
    """What the workers share: as many as jobs, as far as the limit of open files allows."""
    jobs = possible_jobs(settings.jobs)
    rate = settings.limit_rate
    hosts = CircuitBreaker(timeout=settings.timeout, retries=settings.retries, pause=backoff)

    @lru_cache(maxsize=16)  # the days of one chunk, mostly; a long one is megabytes
    def sums(directory: str) -> dict[str, str]:
        return checksums.read(storage.root / directory / checksums.NAME)

    return Tools(
        storage=storage,
        downloads=Downloads(settings.timeout, jobs=jobs, hosts=hosts),
        stop=switch.event,
        jobs=jobs,
        limiter=RateLimiter(rate, switch.event) if rate else None,
        sums=sums,
    )


def possible_jobs(jobs: int) -> int:
    """How many of `jobs` the limit of open files allows; raises that where it can and must."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = _OTHER_FILES + _FILES_A_JOB * jobs
    if soft in (resource.RLIM_INFINITY, -1) or soft >= need:
        return jobs
    more = need if hard == resource.RLIM_INFINITY else min(need, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        soft = more
    possible = max(1, min(jobs, (soft - _OTHER_FILES) // _FILES_A_JOB))
    if possible < jobs:
        log.warning(
            "with %d open files (ulimit -n), only %s at a time, not %d",
            soft,
            pluralize(possible, "download"),
            jobs,
        )
    return possible


def dry_run(
    settings: RunSettings,
    plan: Plan,
    report: Report,
    *,
    catalog: Catalog,
    service: Service,
) -> None:
    """Ask for the links of everything in the plan, and count what a run would do."""
    at = 0
    try:
        while at < len(plan.todo):
            chunk = plan.todo[at : at + service.chunk_limit]
            answer = service.links(chunk, of=len(plan.todo))
            at += len(chunk)
            again = {i for i in chunk if (one := plan.known.get(i)) and one.looked_at_again}
            lost = again.intersection((*answer.unavailable, *answer.refused))
            report.already_archived += len(lost)
            report.unavailable.extend(i for i in answer.unavailable if i not in lost)
            report.refused.extend(i for i in answer.refused if i not in lost)
            report.failed.extend(Failure(i, None, why) for i, why in answer.failed.items())
            for recording in answer.recordings:
                known = plan.known.get(recording.id)
                try:
                    task, transfers = make_task(recording, known, settings, catalog)
                except ValueError as error:
                    report.failed.append(Failure(recording.id, None, str(error)))
                    continue
                report.failed.extend(
                    Failure(recording.id, kind, why) for kind, why in task.failures.items()
                )
                if transfers:
                    sizes = [t.expected for t in transfers if t.expected is not None]
                    report.add_dry_run(recording.id, task.directory, sum(sizes) if sizes else None)
                elif not task.failures:
                    report.already_archived += 1  # what it lacks is not offered
    finally:
        report.unfinished.extend(plan.todo[at:])
    if not service.ever_answered and report.failed:
        report.abort_codes.add(ExitCode.SERVICE)
