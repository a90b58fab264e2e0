"""What nodes are there, how far away, and what happens to them? A TOML file, checked once.

    [network]                 # without an RTT file: round trips are drawn, lognormal
    median_ms = 40
    sigma = 0.8
    jitter = 0.1              # mean share that a message takes longer than it must

    [[kind]]
    name = "jetson"
    count = 16
    fixed_ms = 20
    prefill_ms_per_token = 4
    decode_ms_per_token = 40
    parallel = 1              # questions at once
    jitter = 0.05             # deviation of the logarithm of a service time
    announced = 1.0           # what a node says of its cost, beside its true one
    upload_mbit_s = 10        # of its link, for the question's bytes; without end where left out
    sites = [3, 17]           # rows of the RTT file; drawn where left out

    [[event]]
    share = 0.1               # of the nodes (of `kind`, where that is given; or `node` names one)
    from = 0.5                # shares of the run
    until = 0.8
    slower = 3.0              # throttled; or link_ms = 200 (longer round trips), or down = true

Knows nothing of how a fleet is run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hub.errors import SimulationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Positive = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,40}$")]


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Round trips where no RTT file gives them; `jitter` holds in any case."""

    median_ms: Positive | None = None
    sigma: NotNegative = 0.0
    jitter: NotNegative = 0.0


class Kind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes that are alike."""

    name: Name
    count: Annotated[int, Meta(ge=1, le=100_000)]
    fixed_ms: NotNegative
    prefill_ms_per_token: NotNegative
    decode_ms_per_token: Positive
    parallel: Annotated[int, Meta(ge=1, le=4096)] = 1
    jitter: NotNegative = 0.0
    announced: Positive = 1.0
    upload_mbit_s: Positive | None = None
    sites: tuple[Annotated[int, Meta(ge=0)], ...] = ()


class Happening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """What happens to some nodes from one share of the run until another."""

    since: Share
    until: Share = 1.0
    share: Share = 1.0
    kind: str | None = None
    node: str | None = None
    slower: Positive | None = None
    link_ms: NotNegative | None = None
    down: bool = False

    def __post_init__(self) -> None:
        if (self.slower is not None) + (self.link_ms is not None) + self.down != 1:
            raise ValueError("one of slower, link_ms and down is needed")
        if self.until <= self.since:
            raise ValueError(f"until ({self.until}) is not after from ({self.since})")


class FleetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a file."""

    kind: Annotated[tuple[Kind, ...], Meta(min_length=1)]
    network: Network = Network()
    event: tuple[Happening, ...] = ()

    @property
    def nodes(self) -> list[tuple[str, Kind]]:
        """Every node's name and kind."""
        return [(f"{kind.name}-{number:03d}", kind) for kind in self.kind for number in range(kind.count)]


def read_fleet(path: Path) -> FleetFile:
    """Raises SimulationError saying what is wrong where."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        fleet = msgspec.convert(table, FleetFile)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SimulationError(f"{path} is no fleet: {error}") from None
    names = [kind.name for kind in fleet.kind]
    if len(set(names)) < len(names):
        raise SimulationError(f"{path}: two kinds have one name: {', '.join(sorted(names))}")
    nodes = {name for name, _ in fleet.nodes}
    for event in fleet.event:
        if event.kind is not None and event.kind not in names:
            raise SimulationError(f"{path}: an event is for the kind {event.kind!r}, there is {', '.join(names)}")
        if event.node is not None and event.node not in nodes:
            raise SimulationError(f"{path}: an event is for the node {event.node!r}, there is {min(nodes)} and others")
    return fleet


def read_round_trips(path: Path) -> NDArray[np.float64]:
    """A square matrix of round trips in milliseconds, numbers apart by white space. Raises SimulationError."""
    try:
        matrix = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise SimulationError(f"{path} is no matrix of round trips: {error}") from None
    if matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise SimulationError(f"{path} has {matrix.shape[0]} rows of {matrix.shape[1]} numbers: it must be square")
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise SimulationError(f"{path}: a round trip is negative, or no number")
    return matrix


def round_trips_ms(
    fleet: FleetFile, matrix: NDArray[np.float64] | None, hub_site: int, draw: np.random.Generator
) -> NDArray[np.float64]:
    """Of every node to the hub; sites that a kind does not name are drawn. Raises SimulationError."""
    nodes = fleet.nodes
    if matrix is None:
        if fleet.network.median_ms is None:
            raise SimulationError("no round trips: give an RTT file, or [network] median_ms in the fleet's file")
        return fleet.network.median_ms * np.exp(draw.normal(0.0, fleet.network.sigma, len(nodes)))
    if not hub_site < len(matrix):
        raise SimulationError(f"the hub is at site {hub_site}, the RTT file has {len(matrix)}")
    drawn = draw.permutation(np.delete(np.arange(len(matrix)), hub_site))
    sites = []
    for number, (name, kind) in enumerate(nodes):
        site = kind.sites[number % len(kind.sites)] if kind.sites else int(drawn[number % len(drawn)])
        if site >= len(matrix):
            raise SimulationError(f"{name} is at site {site}, the RTT file has {len(matrix)}")
        sites.append(site)
    found: NDArray[np.float64] = (matrix[hub_site, sites] + matrix[sites, hub_site]) / 2
    return found
