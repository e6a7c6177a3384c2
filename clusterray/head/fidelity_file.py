"""What is kept beside a finished picture of how true it is, for programs; ARCHITECTURE.md names it.

Pure: the task manager, which calls it, writes the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import asdict

from clusterray.core.entities import Frame, Job
from clusterray.core.fidelity import Fidelity
from clusterray.core.model import LightKind, PovrayClass
from clusterray.head.views import chance_view, probe_view


def fidelity_file(job: Job, fidelity: Fidelity, sha256: str, gathers: Mapping[str, int]) -> str:
    """Give the text of the file; ``gathers`` are the radiosity samples that attempts added."""
    request = job.request
    picture = request.picture
    probe = probe_view(job)
    classes = dict.fromkeys(each for frame in job.frames for each in frame.tile_classes)
    said = {
        "picture": request.output_name,
        "sha256": sha256,
        "job": job.id,
        "scene": request.scene,
        "spec_sha256": request.spec_hash,
        "width": picture.width,
        "height": picture.height,
        "region": picture.region.as_tuple(),
        "fidelity": fidelity.kind,
        "reason": fidelity.reason,
        "chance": [asdict(each) for each in chance_view(job)],
        "probe": None if probe is None else asdict(probe),
        "povray": [_class(each) for each in classes],
        "light": _light(job, gathers),
    }
    # Indented by msgspec: json's own way leaves a ring of closures in memory each time.
    return msgspec.json.format(json.dumps(said), indent=2) + "\n"


def _class(povray: PovrayClass) -> dict[str, str]:
    return {
        "version": povray.version,
        "build": povray.build,
        "canary_sha256": povray.canary,
        "includes_sha256": povray.includes,
    }


def _light(job: Job, gathers: Mapping[str, int]) -> dict[str, int] | None:
    """Give the counts of the shared light, None if none is shared."""
    lit = [frame for frame in job.frames if frame.lights]
    if not lit:
        return None
    accepted = [band.accepted for frame in lit for band in frame.bands.values() if band.accepted]
    return {
        "photons": _count(lit, "photons"),
        "samples": _count(lit, "radiosity"),
        "light_bands": sum(len(frame.light_bands) for frame in lit),
        "gathers": sum(gathers.get(attempt.id, 0) for attempt in accepted),
    }


def _count(frames: Sequence[Frame], kind: LightKind) -> int:
    lights = (light for frame in frames for light in frame.lights)
    return sum(light.samples for light in lights if light.kind == kind)
