"""The replicas of a run: started, handed windows, replaced when they die, ended when their node is to go."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.errors import ModelError
from pipeline.event import WindowEvents
from workers.counted import Counted
from workers.ends import Away, Ends
from workers.failures import Failure, understand
from workers.replica import Replica
from workers.work import Batch

CALL_S = 0.25  # a call holds about so much work: short windows go many at a time
CALL_WINDOWS = 512  # but no more than these
LOOK_S = 0.25  # between two looks at whether idle replicas live, and others have their place
SLOW, HANGS = 5, 20  # times what a call usually takes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: `events`, or the `failure` (with the answers that came all the same). `since`: when it
    was given out (monotonic seconds)."""

    batch: Batch
    replica: str
    events: Sequence[WindowEvents] | None
    failure: Failure | None
    since: float = 0.0


@dataclass(slots=True)
class Member:
    """A replica with what the driver knows of it. `nodes`: ids, once it is up. `since`: of its present state.
    `placed_at`: since when it loads its model. `answered`: whether it ever did."""

    replica: Replica
    since: float
    nodes: tuple[str, ...] = ()
    batch: Batch | None = None
    leaving: bool = False
    hung: bool = False
    placed_at: float | None = None
    answered: bool = False

    @property
    def name(self) -> str:
        return self.replica.name


class Pool:
    """Keeps `count` replicas alive. `start(name)` starts one; `needs` says what one takes, for the error message.

    `startup_s`: how long none may be up, and one may load its model before another is started in its place.
    `answer_s`: a call that takes longer ends its replica. `tell(kind, name, where, detail)` hears of what happens.
    """

    def __init__(
        self,
        start: Callable[[str], Replica],
        count: int,
        startup_s: float,
        needs: str,
        *,
        batch_windows: int = 1,
        answer_s: float = 3600.0,
        tell: Callable[[str, str, str, str], None] = lambda kind, name, where, detail: None,
    ) -> None:
        self._start, self.count, self._startup_s, self._needs = start, count, startup_s, needs
        self._batch_windows, self._answer_s, self._tell = batch_windows, answer_s, tell
        self._free: list[Member] = []
        self._starting: dict[Any, Member] = {}
        self._busy: dict[Any, Member] = {}
        self._numbers = 0
        self._looked = 0.0
        self._going: frozenset[str] = frozenset()
        self._gone: frozenset[str] = frozenset()
        self._none_since = time.monotonic()
        self._window_s: float | None = None  # wall time that one window takes in a call, lately
        self._first_s = 0.0  # the longest that the first call of a replica took
        self._ends, self._away, self._counted = Ends(), Away(), Counted()

    @property
    def up(self) -> int:
        return len(self._free) + len(self._busy)

    @property
    def free(self) -> int:
        """Replicas that may be given work now."""
        return 0 if self._away.holds else len(self._free)

    @property
    def waits_for(self) -> str:
        """Why the run waits, with everything as it is; "" where it does not."""
        if self._away.why or self.up or not self._ends.why_not_up:
            return self._away.why
        return f"no replica is up; the last that failed: {self._ends.why_not_up}"

    @property
    def window_s(self) -> float | None:
        """Wall seconds that one window takes a replica, lately; None before the first answer."""
        return self._window_s

    @property
    def deaths(self) -> int:
        """Replicas that were up and have ended, whoever did it."""
        return self._ends.deaths

    def unanswered_ends(self) -> tuple[float, str] | None:
        """Since when (monotonic seconds) replicas end without any answer in between, and how; None where few did."""
        return self._ends.unanswered()

    def busy(self) -> Iterator[Member]:
        """The replicas that work on a batch now."""
        return iter(self._busy.values())

    def starting(self) -> Iterator[Member]:
        """The replicas that are not up yet."""
        return iter(self._starting.values())

    def nodes(self) -> list[str]:
        """The node of each replica that is up (of a gang: its first)."""
        return [m.nodes[0] for m in (*self._free, *self._busy.values()) if m.nodes and not m.leaving]

    def refs(self) -> list[Any]:
        """References that resolve when something happens here."""
        return [*self._starting, *self._busy, *self._counted.refs()]

    # --- How many, and where.

    def cluster_changed(self, going: Collection[str], gone: Collection[str]) -> None:
        """`going`: nodes that will end soon; `gone`: nodes that are dead."""
        self._going, self._gone = frozenset(going), frozenset(gone)

    def pump(self) -> None:
        """Start what is missing, end what is too much. Raises ModelError where no replica can be had."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            for member in [m for m in self._free if m.replica.dead()]:
                self._free.remove(member)
                self._died(member, "it died while it was idle", blame=not self._gone.intersection(member.nodes))
            self._look_at_starting(now)
        for member in [*self._free, *self._busy.values()]:
            member.leaving = member.leaving or bool(self._going.intersection(member.nodes))
        staying = sum(not m.leaving for m in (*self._free, *self._busy.values()))
        surplus = staying + len(self._starting) - self.count
        for ref in list(self._starting)[: max(0, surplus)]:
            self._starting.pop(ref).replica.stop()
            surplus -= 1
        for member in [*self._free, *self._busy.values()][: max(0, surplus)]:
            member.leaving = True
        for member in [m for m in self._free if m.leaving]:
            self._free.remove(member)
            self._drained(member)
        while len(self._starting) + staying < self.count and now >= self._ends.start_at and not self._away.holds:
            self._numbers += 1
            replica = self._start(f"replica-{self._numbers}")
            self._starting[replica.ready()] = Member(replica, now)
            staying = sum(not m.leaving for m in (*self._free, *self._busy.values()))
        self._counted.pump(m.replica for m in (*self._free, *self._busy.values()))
        if self.up or self._away.why:
            self._none_since = now
        elif self.count and now - self._none_since > self._startup_s:
            why = f"; the last that failed: {self._ends.why_not_up}" if self._ends.why_not_up else ""
            raise ModelError(f"no replica came up within {self._startup_s:.0f} s; one needs {self._needs}{why}")

    def _look_at_starting(self, now: float) -> None:
        """A replica that has its place and does not come up hangs: another is started."""
        for ref, member in list(self._starting.items()):
            if member.placed_at is None:
                member.placed_at = now if member.replica.placed() else None
            elif now - member.placed_at > self._startup_s:
                del self._starting[ref]
                late = f"its model was not loaded within {self._startup_s:.0f} s"
                self._not_up(member, Failure("died", "timeout", late))

    # --- Work.

    def call_windows(self, ready: int) -> int:
        """How many of `ready` windows one call should hold: about `CALL_S` of work, and a share for every replica."""
        batch = self._batch_windows
        if self._window_s is None:
            return batch
        worth = min(CALL_WINDOWS, CALL_S / max(self._window_s, 1e-6), -(-ready // max(1, self.up)))
        return max(1, int(worth) // batch) * batch

    def next_free(self) -> Member:
        """The free replica that is served next."""
        return self._free[-1]

    def watch(self, batch: Batch) -> None:
        """Give a batch to the next free replica."""
        member = self._free.pop()
        parcels, at = batch.parcels()
        member.batch, member.since = batch, time.monotonic()
        self._busy[member.replica.watch(batch.windows, parcels, at)] = member

    def collect(self, ref: Any) -> Outcome | None:
        """Take in what happened at `ref`; None when it was not about a batch."""
        if ref in self._starting:
            self._started(ref)
            return None
        if self._counted.collect(ref):
            return None
        member = self._busy.pop(ref)
        try:
            events = ray.get(ref)
        except Exception as error:  # noqa: BLE001 - sorted by `understand`
            return self._failed(member, understand(error))
        batch = member.batch
        assert batch is not None
        if not _answers(events, batch):
            return self._failed(member, Failure("fault", "crash", "it did not answer the windows it was given"))
        now = time.monotonic()
        window_s = (now - member.since) / len(batch.members)
        self._window_s = window_s if self._window_s is None else 0.7 * self._window_s + 0.3 * window_s
        if not member.answered:
            member.answered, self._first_s = True, max(self._first_s, now - member.since)
        outcome = Outcome(batch, member.name, events, None, member.since)
        self._set_free(member, now)
        self._ends.answered()
        self._away.over()
        return outcome

    def overdue(self) -> list[Outcome]:
        """Calls that took longer than `answer_s`, or hang: their replicas are ended."""
        now = time.monotonic()
        late = [r for r, m in self._busy.items() if m.hung or now - m.since > self._answer_s]
        return [self._late(self._busy.pop(ref), now) for ref in late]

    def patience(self, member: Member) -> tuple[float | None, float]:
        """After how many seconds the call of a busy replica is slow (None: not known yet), and after how many it hangs.
        The first call of each may take as long as those of others."""
        if self._window_s is None or member.batch is None:
            return None, self._answer_s
        usual_s = max(self._window_s * len(member.batch.members), 0.0 if member.answered else self._first_s)
        return SLOW * usual_s, min(self._answer_s, HANGS * usual_s)

    def end(self, member: Member) -> None:
        """This one hangs: `overdue` gives its batch back."""
        member.hung = True

    def _late(self, member: Member, now: float) -> Outcome:
        return self._failed(member, Failure("died", "timeout", f"no answer within {now - member.since:.0f} s"))

    def counted(self) -> dict[str, Any]:
        """What the replicas' models counted, added up, as each said it last: half a minute ago if it is well."""
        return self._counted.total()

    def report(self, within_s: float = 5.0) -> dict[str, Any]:
        """The same, of the free ones as it is now."""
        self._counted.ask(member.replica for member in self._free)
        refs = list(self._counted.refs())
        for ref in ray.wait(refs, num_returns=len(refs), timeout=within_s)[0] if refs else []:
            self._counted.collect(ref)
        return self._counted.total(fresh=True)

    def stop(self) -> None:
        """End every replica."""
        for member in [*self._free, *self._starting.values(), *self._busy.values()]:
            member.replica.stop()
        self._free, self._starting, self._busy = [], {}, {}

    # --- Comings and goings.

    def _started(self, ref: Any) -> None:
        member = self._starting.pop(ref)
        try:
            member.nodes = tuple(ray.get(ref))
        except Exception as error:  # noqa: BLE001 - sorted by `understand`
            self._not_up(member, understand(error))
            return
        self._ends.came_up()
        self._away.over()
        self._set_free(member, time.monotonic())
        self._tell("replica_up", member.name, ",".join(member.nodes), "")

    def _not_up(self, member: Member, failure: Failure) -> None:
        member.replica.stop()
        if failure.what == "away":
            self._is_away(member, failure)
        elif failure.what != "node":
            loading = bool(self.up) or any(m.replica.placed() for m in self._starting.values())
            self._ends.not_started(failure, member.since, loading, waiting=bool(self._starting))
            self._tell("retry", member.name, "", f"it did not come up: {failure.detail}")

    def _set_free(self, member: Member, now: float) -> None:
        member.batch, member.since = None, now
        if member.leaving:
            self._drained(member)
        else:
            self._free.append(member)

    def _drained(self, member: Member) -> None:
        member.replica.stop()
        self._counted.ended(member.name)
        self._tell("replica_drained", member.name, ",".join(member.nodes), "its node goes, or it is not needed")

    def _failed(self, member: Member, failure: Failure) -> Outcome:
        batch = member.batch
        assert batch is not None
        outcome = Outcome(batch, member.name, None, failure, member.since)
        if failure.answered:
            self._ends.answered()
            self._away.over()
        if failure.what in ("model", "lost", "full", "away"):  # the replica is well
            self._set_free(member, time.monotonic())
            if failure.what == "away":
                self._is_away(member, failure)
            return outcome
        if self._gone.intersection(member.nodes) and failure.what == "died":
            failure = Failure("node", "crash", "its node died")
        self._died(member, failure.detail, blame=failure.what != "node")
        return Outcome(batch, member.name, None, failure, member.since)

    def _is_away(self, member: Member, failure: Failure) -> None:
        if self._away.seen(failure):
            self._tell("waiting", member.name, ",".join(member.nodes), failure.detail)

    def _died(self, member: Member, detail: str, blame: bool) -> None:
        member.replica.stop()
        self._counted.ended(member.name)
        self._tell("replica_died", member.name, ",".join(member.nodes), detail)
        over = member.batch.members[0].window.video_id if member.batch is not None else member.name
        self._ends.died(detail, over, blame, self.count)


def _answers(events: object, batch: Batch) -> bool:
    """Whether this is an answer to each window of the batch, in order."""
    return (
        isinstance(events, list)
        and all(isinstance(e, WindowEvents) for e in events)
        and tuple(e.window for e in events) == batch.windows
    )
