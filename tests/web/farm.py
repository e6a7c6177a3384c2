"""A made-up farm for the pages to show."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from clusterray.wire.protocol import JobView, NodeView, Role, VerifiedView

SUBMIT, ADMIN, NODE = "cr1-submit", "cr1-admin", "cr1-node"
DIFFERS = "differs from most: other POV-Ray 3.7.0.8"
VERIFIED = "verified: 2 bands rendered again on other nodes, 12 of 960 pixels differ"
APART = "rows 64 to 95: 12 of 480 pixels differ between <desk> and pi, by up to 3 of 255"
TRUE = "12 of 4,800 pixels differ between one thread and two; its text has crand (a<b>.pov:7)"
MIXED = "mixed: tiles of 2 kinds of POV-Ray are in the picture"
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@dataclass(frozen=True)
class Farm:
    jobs: tuple[JobView, ...] = ()
    nodes: tuple[NodeView, ...] = ()
    at: float = 0.0


def job(number: int, **changes: object) -> JobView:
    fields: dict[str, object] = {
        "id": f"j{number}",
        "number": number,
        "title": f"Picture {number}",
        "owner": "ada",
        "state": "running",
        "priority": 0,
        "scene": "0" * 64,
        "width": 800,
        "height": 600,
        "region": (0, 0, 800, 600),
        "output_name": "room.png",
        "created": 1_700_000_000.0,
        "elapsed_s": 125.0,
        "pixels_done": 240_000,
        "pixels_total": 480_000,
        "pixels_per_s": 2000.0,
        "eta_s": 120.0,
    }
    return JobView(**(fields | changes))  # type: ignore[arg-type]


def node(name: str, **changes: object) -> NodeView:
    fields: dict[str, object] = {
        "name": name,
        "uuid": f"u-{name}",
        "state": "busy",
        "address": "192.0.2.10",
        "version": "0.1.0",
        "cores": 4,
        "threads": 4,
        "memory_bytes": 8 << 30,
        "povray": "3.7.0.10.unofficial",
    }
    return NodeView(**(fields | changes))  # type: ignore[arg-type]


def busy_farm() -> Farm:
    return Farm(
        jobs=(
            job(7, title="Living room, evening light", nodes=["attic", "pi-4"]),
            job(6, title="", state="queued", pixels_done=0, eta_s=None, note="1 job before it"),
            job(
                5,
                title="Chess set",
                owner="grace",
                state="failed",
                eta_s=None,
                pixels_done=0,
                error="Undefined function or variable 'Marbel'.",
                error_file="chess.pov",
                error_line=88,
            ),
            job(4, title=HOSTILE, state="cancelled", owner=HOSTILE, eta_s=None),
            job(
                3,
                title="Café ☕",
                state="done",
                pixels_done=480_000,
                eta_s=0.0,
                elapsed_s=7624.0,
                mix="any",
                mixed=MIXED,
                fidelity="noisy",
                fidelity_reason=TRUE,
                verify=2,
                verified=VerifiedView(compared=2, lines=[VERIFIED, APART]),
            ),
        ),
        nodes=(
            node("attic", job="j7", bands_done=31),
            node("pi-4", job="j7", bands_done=5, threads=3, address="192.0.2.11", differs=DIFFERS),
            node("laptop", state="away", reason="said nothing for 16 s", cores=8, threads=8),
        ),
        at=1_700_000_125.0,
    )


@dataclass(frozen=True)
class Visitor:
    role: Role


def visitor_of(text: str) -> Visitor | None:
    roles: dict[str, Role] = {SUBMIT: "submit", ADMIN: "admin", NODE: "node"}
    return Visitor(roles[text]) if text in roles else None


def view(who: Visitor) -> Farm:
    return busy_farm()


def preview_for(job_id: str, who: Visitor) -> bytes | None:
    return preview(job_id)


def pictured_for(job_id: str, who: Visitor) -> bool:
    return preview(job_id) is not None


def preview(job_id: str) -> bytes | None:
    colours = {"j7": (180, 110, 60), "j3": (70, 90, 140)}
    if job_id not in colours:
        return None
    picture = Image.new("RGB", (640, 480), (40, 40, 40))
    gradient = Image.linear_gradient("L").resize((640, 300))
    picture.paste(Image.new("RGB", (640, 300), colours[job_id]), (0, 0), gradient)
    png = io.BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()
