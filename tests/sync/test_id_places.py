"""`--ids-in`: where the calls that change something have their IDs; the vendor leaves it open."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import pytest
from support import cli_here
from support.service import Serve
from support.sync import change, small, sync_args, sync_here

from g2a_archive.demo import Request, Response
from g2a_archive.models import FileKind

Place = Literal["path", "query", "body"]
PLACES: tuple[Place, ...] = get_args(Place)

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.mark.parametrize("place", PLACES)
def test_each_place(place: Place, serve: Serve, root: Path, tmp_path: Path) -> None:
    service = serve(small(8, transcode_every=2), ids_in=place)
    config = tmp_path / "config.toml"
    config.write_text(f'ids_in = "{place}"\n')
    option = ["--ids-in", place] if place != "body" else ["--config", str(config)]
    args = sync_args(root, "--transcode", "--mark-archived", *option)
    result = cli_here(args, service.environment())
    assert (result.returncode, result.stderr) == (3, "")
    ready = {i for i, one in service.recordings.items() if one.state == "ready"}
    assert service.archived == ready
    assert service.requests.statuses["transcode", 204] == 1
    assert all(service.state(i) != "transcode" for i in service.recordings)


@pytest.mark.parametrize("call", ["transcode", "archived"])
@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_call_that_is_not_understood_points_at_the_option(
    status: int, call: Literal["transcode", "archived"], serve: Serve, root: Path
) -> None:
    service = serve(small(4, transcode_every=2), rate_limit=None)
    service.fail(Response(status), call=call)
    report = sync_here(service, root, transcode=True, mark_archived=True)
    assert report.exit_code == 7
    (stop,) = report.abort_messages
    assert f"answered {status}" in stop
    assert "is --ids-in right? it is 'path' now; try query or body" in stop
    assert report.archived == 2, "what can be archived is"


def test_calls_that_are_not_understood_are_each_told(serve: Serve, root: Path) -> None:
    service = serve(small(4, transcode_every=2), rate_limit=None, ids_in="query")
    report = sync_here(service, root, transcode=True, mark_archived=True)
    assert report.exit_code == 7
    assert [stop.partition(" call: ")[0] for stop in report.abort_messages] == [
        "transcode",
        "mark-archived",
    ]


def test_a_wrong_place_changes_nothing_and_says_so(serve: Serve, root: Path) -> None:
    service = serve(small(4), rate_limit=None, ids_in="query")
    report = sync_here(service, root, mark_archived=True)
    assert report.exit_code == 7
    assert service.archived == set()
    assert "--ids-in" in report.abort_messages[0]
    report = sync_here(service, root, run={"ids_in": "query"}, mark_archived=True)
    assert report.exit_code == 0
    assert service.archived == set(service.recordings)


@pytest.mark.parametrize("place", PLACES)
def test_a_long_call_is_halved(
    place: Place, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.service.client.LONG_QUERY", 200)
    service = serve(small(80), rate_limit=None, ids_in=place)
    run = {"ids_in": place, "kinds": (FileKind.MP4,)}
    sync_here(service, root, run=run)
    refusal = [0]

    def proxy(request: Request) -> Response | None:
        size = len(request.target) + len(request.body)
        return Response(refusal[0]) if request.call == "archived" and size > 300 else None

    service.on_request.append(proxy)
    for refusal[0] in (400, 413, 414, 431):
        change(root, "UPDATE recording SET kinds = 7, absent = 6, marked_at = NULL")
        service._api.archived.clear()
        report = sync_here(service, root, run=run, mark_archived=True)
        done = (report.exit_code, len(service.archived))
        if place == "body" and refusal == [400]:  # no proxy counts a body as an address
            assert done[0] == 7
            assert done[1] < 80  # the first calls are short
        else:
            assert done == (0, 80), refusal
