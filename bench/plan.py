"""What is measured: the rows, the variants of each, and how long. Nothing here needs more than Python itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

MIB = 1 << 20
GIB = 1 << 30

STAMP_LEN = 20  # digits at the beginning of each payload (payload.h)

BARE = "bare"
FLOOR = "a thread alone"
KAFKA = "into Kafka"
AWAY = "Kafka away"
PRODUCER = "bare producer"
DRAIN = "backlog drained"
IDLE = "bare, alone"


class Kind(Enum):
    """What stands there to be measured."""

    BARE = 1  # Mosquitto without a plugin
    FLOOR = 2  # with one that does nothing (floor.c)
    KAFKA = 3  # with ours, delivering while the load runs
    AWAY = 4  # with ours, and nobody at Kafka's address
    PRODUCER = 5  # no broker: librdkafka by itself (producer.c)


class Way(Enum):
    """How it is measured."""

    FULL_SPEED = 1  # side by side, in turns, as fast as it goes
    PACED = 2  # one after the other, at a rate
    BACKLOG = 3  # Kafka comes back
    START = 4


@dataclass(frozen=True)
class Load:
    """What loadgen is told; the default is the load that the rows vary."""

    qos: int = 1
    size: int = 100
    n: int = 0  # messages; 0: as many as the bare broker takes in the plan's time
    topics: int = 100
    connections: int = 50
    rate: int = 0
    prefix: str = "bench/t"


@dataclass(frozen=True)
class Case:
    """One line of the report."""

    row: str
    variant: str
    kind: Kind
    load: Load = Load()
    options: dict[str, str] = field(default_factory=dict)  # of the plugin, beside the usual ones

    def __str__(self) -> str:
        return f"{self.row}, {self.variant}"


@dataclass(frozen=True)
class Contest:
    """Cases that are compared with each other: all in the same round."""

    group: str
    way: Way
    cases: list[Case]


@dataclass(frozen=True)
class Plan:
    """How much of it."""

    rounds: int
    turns: int  # of each case in a round
    seconds: float  # of a turn, at the bare broker's full speed
    latency_seconds: float  # of a round
    n: int = 0  # messages of a turn, instead of what takes the seconds
    n_always: int = 2000  # messages of a turn when each waits for the disk
    warm_up: int = 5000  # messages
    backlog: int = 300 * MIB  # bytes of the spool
    start_sizes: tuple[int, ...] = (GIB, 10 * GIB)  # bytes of backlog, beside none


FULL = Plan(rounds=5, turns=4, seconds=0.6, latency_seconds=8)
QUICK = Plan(rounds=3, turns=2, seconds=0.25, latency_seconds=3, n_always=500, backlog=48 * MIB)
# For the tests: does it still run? The figures say nothing.
TINY = Plan(
    rounds=1,
    turns=1,
    seconds=0,
    latency_seconds=0.2,
    n=500,
    n_always=50,
    warm_up=50,
    backlog=MIB,
    start_sizes=(256 * MIB,),
)

ALL_GROUPS = ("speed", "scale", "spool", "latency", "drain", "start")

# The spool on disk, as a package sets it; {dir} is the directory of the broker under test.
DISK = {"spool_dir": "{dir}/spool", "spool_sync": "interval"}


def size_text(size: int) -> str:
    return f"{size >> 10} KiB" if size >= 1024 else f"{size} B"


def count_text(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' if n != 1 else ''}"


# --- speed: payload and QoS --------------------------------------------------------------------------------------

SPEED_LOADS = {
    f"{size_text(size)} QoS {qos}": Load(qos=qos, size=size)
    for size, qos in [(100, 0), (100, 1), (100, 2), (1024, 0), (1024, 1), (16384, 1)]
}
PRODUCER_ROWS = {f"{size_text(size)} QoS 1" for size in (100, 1024, 16384)}


def speed(floor: bool) -> list[Contest]:
    contests = []
    for row, load in SPEED_LOADS.items():
        cases = [Case(row, BARE, Kind.BARE, load)]
        cases += [Case(row, FLOOR, Kind.FLOOR, load)] if floor else []
        cases += [Case(row, KAFKA, Kind.KAFKA, load, DISK), Case(row, AWAY, Kind.AWAY, load, DISK)]
        cases += [Case(row, PRODUCER, Kind.PRODUCER, load)] if row in PRODUCER_ROWS else []
        contests.append(Contest("speed", Way.FULL_SPEED, cases))
    return contests


# --- scale: clients, topics, filters -----------------------------------------------------------------------------

CLIENTS = (1, 50, 1000)
TOPICS = (1, 100, 10000)
FILTERS = (1, 100, 1000)
_FILTERED_TOPICS = 1000


def _filters(n: int) -> str:
    """All but one take one topic each, and the last one takes all."""
    return ",".join([*(f"bench/t{i:06}/#" for i in range(n - 1)), "bench/#"])


def scale() -> list[Contest]:
    contests = []
    for values, what, name in ((CLIENTS, "client", "connections"), (TOPICS, "topic", "topics")):
        cases = []
        for n in values:
            row, load = count_text(n, what), replace(Load(), **{name: n})
            cases += [Case(row, BARE, Kind.BARE, load), Case(row, KAFKA, Kind.KAFKA, load, DISK)]
        contests.append(Contest("scale", Way.FULL_SPEED, cases))
    load = Load(topics=_FILTERED_TOPICS)
    cases = [Case(count_text(FILTERS[0], "filter"), BARE, Kind.BARE, load)]
    for n in FILTERS:
        options = DISK | {"mqtt_topic": _filters(n)}
        cases.append(Case(count_text(n, "filter"), KAFKA, Kind.KAFKA, load, options))
    contests.append(Contest("scale", Way.FULL_SPEED, cases))
    return contests


def scale_base(row: str) -> str:
    """The row whose bare broker has the same load: filters are the plugin's alone."""
    return count_text(FILTERS[0], "filter") if "filter" in row else row


# --- spool: memory, disk, each policy ----------------------------------------------------------------------------

SPOOLS = {
    "memory": {},
    "disk, synced never": DISK | {"spool_sync": "never"},
    "disk, synced each 500 ms": DISK,
}
SPOOL_ROW, ALWAYS_ROW = "spool", "spool, synced always"
ALWAYS = "disk, synced always"


def spool(plan: Plan) -> list[Contest]:
    cases = [Case(SPOOL_ROW, BARE, Kind.BARE)]
    for name, options in SPOOLS.items():
        cases += [
            Case(SPOOL_ROW, f"{name}; {KAFKA}", Kind.KAFKA, options=options),
            Case(SPOOL_ROW, f"{name}; {AWAY}", Kind.AWAY, options=options),
        ]
    load = Load(n=plan.n_always)
    always = DISK | {"spool_sync": "always"}
    waiting = [
        Case(ALWAYS_ROW, BARE, Kind.BARE, load),
        Case(ALWAYS_ROW, ALWAYS, Kind.KAFKA, load, always),
    ]
    return [Contest("spool", Way.FULL_SPEED, cases), Contest("spool", Way.FULL_SPEED, waiting)]


# --- latency -----------------------------------------------------------------------------------------------------

LATENCY_RATES = (100, 2000, 20000)


def latency_row(rate: int) -> str:
    return f"{rate:,} msg/s"


def latency(plan: Plan) -> list[Contest]:
    contests = []
    for rate in LATENCY_RATES:
        load = Load(n=max(10, int(rate * plan.latency_seconds)), rate=rate)
        cases = [
            Case(latency_row(rate), BARE, Kind.BARE, load),
            Case(latency_row(rate), KAFKA, Kind.KAFKA, load, DISK),
        ]
        contests.append(Contest("latency", Way.PACED, cases))
    return contests


# --- drain: a backlog --------------------------------------------------------------------------------------------

DRAIN_SIZES = (100, 1024)
DRAIN_RATE = 1000  # messages a second that come in meanwhile
# Of a record in the spool, beside the payload: header and topic, and padding.
SPOOLED_OVERHEAD = 56


def drain_row(size: int) -> str:
    return f"backlog of {size_text(size)}"


def drain(plan: Plan) -> list[Contest]:
    contests = []
    for size in DRAIN_SIZES:
        row = drain_row(size)
        load = Load(qos=0, size=size, n=plan.backlog // (size + SPOOLED_OVERHEAD))
        cases = [
            Case(row, IDLE, Kind.BARE, load),
            Case(row, PRODUCER, Kind.PRODUCER, load),
            Case(row, DRAIN, Kind.AWAY, load, DISK),
        ]
        contests.append(Contest("drain", Way.BACKLOG, cases))
    return contests


# --- start -------------------------------------------------------------------------------------------------------

START_ROW = "start"
NO_PLUGIN, NO_BACKLOG = "without plugin", "no backlog"


def start_variant(size: int) -> str:
    return f"{size / GIB:g} GiB of backlog" if size >= GIB else f"{size / MIB:g} MiB of backlog"


def start(plan: Plan) -> list[Contest]:
    cases = [Case(START_ROW, NO_PLUGIN, Kind.BARE), Case(START_ROW, NO_BACKLOG, Kind.AWAY, options=DISK)]
    cases += [Case(START_ROW, start_variant(size), Kind.AWAY, options=DISK) for size in plan.start_sizes]
    return [Contest("start", Way.START, cases)]


# --- all ---------------------------------------------------------------------------------------------------------


def contests(plan: Plan, groups: Iterable[str], rows: Iterable[str] = (), floor: bool = False) -> list[Contest]:
    """Those of the groups; with rows only the cases whose row holds one of these texts."""
    makers = {
        "speed": lambda: speed(floor),
        "scale": scale,
        "spool": lambda: spool(plan),
        "latency": lambda: latency(plan),
        "drain": lambda: drain(plan),
        "start": lambda: start(plan),
    }
    wanted = list(rows)
    found = [contest for name in ALL_GROUPS if name in groups for contest in makers[name]()]
    if not wanted:
        return found
    chosen = [
        replace(contest, cases=[case for case in contest.cases if any(text in case.row for text in wanted)])
        for contest in found
    ]
    return [contest for contest in chosen if contest.cases]
