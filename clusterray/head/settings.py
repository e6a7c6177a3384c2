"""The head's settings as one frozen value; where each came from is the command's business."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from clusterray.core.patience import Patience
from clusterray.head.doorkeeper import Network


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """Everything a head can be told. Ports of 0 take a free one, remembered in ``state``."""

    state: Path
    listen: str = "127.0.0.1"
    advertise: str = ""
    port: int = 0
    ftp_port: int = 0
    http_port: int = 0
    passive_ports: tuple[int, int] | None = None
    tls: bool = True
    plain_networks: tuple[Network, ...] = ()
    heartbeat_s: float = 4.0
    silent_s: float = 16.0
    detached_s: float = 10.0
    stall_s: float = 1800.0
    parse_s: float = 14_400.0
    band_nodes: int = 3
    band_tries: int = 2
    node_failures: int = 3
    node_failed_jobs: int = 3
    kept_off_s: float = 300.0
    max_scene_bytes: int = 2 << 30
    max_scene_files: int = 20_000
    max_pixels: int = 1 << 28
    max_bands: int = 10_000
    max_jobs: int = 10_000
    max_jobs_per_token: int = 1000
    max_connections: int = 2048
    max_strangers: int = 1024
    max_strangers_per_address: int = 128
    max_messages_per_s: int = 500
    max_ftp_sessions_per_address: int = 1024
    max_http_connections: int = 200
    scene_store_bytes: int = 20 << 30
    disk_bytes: int = 100 << 30
    keep_results_days: float | None = None

    @property
    def patience(self) -> Patience:
        """What the farm bears; the settings of the same names."""
        names = (each.name for each in fields(Patience))
        return Patience(**{name: getattr(self, name) for name in names})
