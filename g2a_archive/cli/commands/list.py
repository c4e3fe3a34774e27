"""The command `list`: what the service has ready, for a person, a pipe or a program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from g2a_archive.cli.options import list_options
from g2a_archive.cli.run import invoked
from g2a_archive.cli.settings import ConfiguredCommand, Settings, selection_of, settings_of
from g2a_archive.console import outputs
from g2a_archive.console.report import PRECEDENCE
from g2a_archive.errors import ExitCode, Interrupted
from g2a_archive.models import IdSet, ListState, Selection, pluralize
from g2a_archive.sync.listing import Listing, Query, each_query, queries
from g2a_archive.sync.windows import Span, span_of

_WORDS = {ListState.DOWNLOAD: "ready for download", ListState.TRANSCODE: "ready for transcoding"}


@click.command("list", cls=ConfiguredCommand)
@list_options
@click.pass_context
def list_command(ctx: click.Context, /, state: Any, **_: Any) -> ExitCode:
    """List what the service has: IDs, one a line, ready for `download -f -`."""
    return _list(settings_of(ctx), selection_of(ctx), state)


def _list(settings: Settings, selection: Selection, state: ListState) -> ExitCode:
    """Print the recordings in this state, each once, in start order; nothing if it is interrupted.

    A key that the service refuses, or cannot tell of, keeps no other out, nor what it had told of.
    Ends with 1 where some may be missing. Raises `CredentialsError`, `ServiceError` where that is
    all there is to tell.
    """
    from g2a_archive.download.assembly import make_service

    with invoked(settings) as invocation:
        service = make_service(settings.run, invocation.credentials(), invocation.switch)
        found = Listing(service.ready, service.clock, state)

        def span() -> Span:
            return span_of(selection, service.clock.best())

        def walk(query: Query) -> None:
            for _ in found.walk(query, span):
                pass

        asked = queries(selection)
        with invocation.display.watch(found.snapshot):
            failed = each_query(asked, walk)
        if invocation.switch.code is not None:
            raise Interrupted
        if len(failed) == len(asked) and not found.ids():
            raise min(failed, key=lambda error: PRECEDENCE.index(error.exit_code))
    _print(settings, found, state)
    return invocation.ending(ExitCode.FAILED if found.overflowing else None, errors=failed)


def _print(settings: Settings, found: Listing, state: ListState) -> None:
    if settings.json:
        outputs.say_json(_json(found, state))
        return
    lines = _table(found, state) if outputs.on_terminal() else map(str, found.ids(state))
    with outputs.checked_stdout() as out:
        out.writelines(f"{line}\n" for line in lines)


def _json(found: Listing, state: ListState) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if state is not ListState.TRANSCODE:
        result["ready_for_download"] = list(found.ids(ListState.DOWNLOAD))
    if state is not ListState.DOWNLOAD:
        result["ready_for_transcode"] = list(found.ids(ListState.TRANSCODE))
    return {
        **result,
        "list_calls": found.calls,
        "overflowing_seconds": found.overflowing,
    }


def _table(found: Listing, state: ListState) -> Iterator[str]:
    ready = IdSet(found.ids(ListState.DOWNLOAD))
    ids = found.ids(state)
    width = max(len("recording"), len(str(max(ids, default=0))))
    if ids:
        yield f"{'recording':>{width}}  state"
    for id_ in ids:
        word = _WORDS[ListState.DOWNLOAD if id_ in ready else ListState.TRANSCODE]
        yield f"{id_:>{width}}  {word}"
    yield f"{pluralize(len(ids), 'recording')} ({pluralize(found.calls, 'call')})"
