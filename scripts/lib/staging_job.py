"""Which part of a real job goes into moving its files, by the timeline that the head keeps."""

from __future__ import annotations

from pathlib import Path

from programs import Programs
from standing_farm import StandingFarm

from clusterray.client.control import Control
from clusterray.client.head_link import HeadLink
from clusterray.client.timeline import Doing, timeline_of
from clusterray.wire.trust import JoinToken

_LONGEST_S = 1800.0


def measure(folder: Path, scene: Path, width: int, threads: int) -> dict[str, float | int | str]:
    """Submit a scene to a farm of one node; gives the seconds that its files' way took of it."""
    farm_folder = folder / "farm"
    farm_folder.mkdir()
    with StandingFarm(farm_folder, [threads], Programs()) as farm:
        options = [f"+W{width}", f"+H{width * 9 // 16}"]
        done = farm.submit(scene, folder / "out.png", options, _LONGEST_S)
        if done.code != 0:
            raise RuntimeError(f"the job ended with {done.code}: {done.said}")
        token = JoinToken.decode(Path(farm.token("submit")).read_text())
        with HeadLink(lambda: token) as link:
            link.open()
            detail = Control(link).show(done.job)
    timeline = timeline_of(detail)
    pieces = [piece for lane in timeline.lanes.values() for piece in lane]

    def seconds(doing: Doing) -> float:
        return sum(piece.seconds for piece in pieces if piece.doing == doing)

    whole = timeline.end - timeline.begin
    return {
        "what": "job",
        "bands": len(detail.bands),
        "job_s": whole,
        "fetch_s": seconds("fetch"),
        "upload_s": seconds("upload"),
        "trace_s": seconds("trace"),
        "share": (seconds("fetch") + seconds("upload")) / whole,
    }
