"""The run follows its cluster: replicas and decoders come and go with the nodes, and the stages keep pace.

Once a second it is looked at which nodes are there (workers/nodes.py), how fast the stages are (workers/steer.py), and
what the autoscaler should be asked for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from ray.autoscaler.sdk import request_resources

from model.interface import ModelProfile
from workers.commit import Committer
from workers.nodes import NodeWatch
from workers.pool import Member, Pool
from workers.report import Progress
from workers.schedule import Schedule
from workers.shares import Shares, room_for
from workers.steer import Steer
from workers.streams import Streams
from workers.teller import Teller
from workers.watchdog import Suspect

LOOK_S = 1.0
PATIENCE = 10  # times the quiet time of the watchdog, after which what is stuck is ended
COMING_UP = 5  # times the quiet time, after which a replica that is not up yet is named
ASK_S = 30.0  # between two requests to the autoscaler


class Elastic:
    """`decoders`: fixed number of decoders, None to steer it. `share_again`, `ask_for`: see `Flow`. `adopt(shares)`
    hears of how a cluster that has changed is shared."""

    def __init__(
        self,
        schedule: Schedule,
        pool: Pool,
        profile: ModelProfile,
        shares: Shares,
        teller: Teller,
        decoders: int | None,
        share_again: Callable[[Mapping[str, float]], Shares] | None,
        ask_for: int | None,
        adopt: Callable[[Shares], None],
    ) -> None:
        self._schedule, self._pool, self._profile, self._teller = schedule, pool, profile, teller
        self._share_again, self._ask_for, self._fixed = share_again, ask_for, decoders is not None
        self._adopt = adopt
        self.decode_cpus = shares.decode_cpus
        self._watch = NodeWatch()
        self._nodes = self._watch.latest
        self._steer = Steer(shares.decoders, shares.decoders)
        self._looked = self._asked = 0.0
        self._before = (0.0, 0)  # seconds of decoding and windows decoded, at the last look
        self._idle_looks: list[bool] = []
        self._turn = 0

    def pump(self, progress: Progress, last_videos: bool) -> None:
        """Look, once a second. `last_videos`: no more videos will come."""
        self._idle_looks.append(self._pool.free > 0)
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self._follow_nodes(progress)
        self._steer_decoders(progress)
        if self._ask_for is not None and now - self._asked >= ASK_S:
            self._asked = now
            self._ask(0 if last_videos and self._schedule.decoders.idle() else self._ask_for)

    def close(self) -> None:
        self._watch.close()
        if self._ask_for is not None:
            self._ask(0)

    # --- Nodes.

    def decode_near(self) -> str | None:
        """The node where the next decode task should run if it has room: the replicas' nodes take turns."""
        nodes = self._pool.nodes()
        if len(self._nodes.alive) < 2 or not nodes:
            return None
        self._turn += 1
        return nodes[self._turn % len(nodes)]

    def node_of(self, member: Member) -> str:
        """The node of a replica, where that matters."""
        return member.nodes[0] if member.nodes and len(self._nodes.alive) > 1 else ""

    def _follow_nodes(self, progress: Progress) -> None:
        before, now = self._nodes, self._watch.latest
        progress.nodes = len(now.alive)
        if now is before:
            return
        self._nodes = now
        changed = False
        for node in now.alive.keys() - before.alive.keys():
            changed = True
            self._teller.event("node_added", "watch", now.name(node), "", "")
        for node in (before.alive.keys() - now.alive.keys()) | (now.dead - before.dead - before.alive.keys()):
            changed = True
            progress.nodes_lost += 1
            self._teller.event("node_lost", "watch", now.name(node), "", "")
        for node in now.draining - before.draining:
            changed = True
            self._teller.event("node_draining", "watch", now.name(node), "", "nothing new goes there")
        if not changed:
            return
        self._pool.cluster_changed(now.draining, now.dead)
        if self._share_again is not None:
            shares = self._share_again(now.resources())
            self._pool.count = shares.replicas
            self.decode_cpus = shares.decode_cpus
            self._steer.most = shares.decoders
            if not self._fixed:
                self._schedule.decoders.at_once = min(self._schedule.decoders.at_once, shares.decoders)
            self._adopt(shares)

    # --- Rates.

    def _steer_decoders(self, progress: Progress) -> None:
        decode_s, decoded = progress.decode_s, self._schedule.taken_windows
        before_s, before_windows = self._before
        self._before = decode_s, decoded
        looks, self._idle_looks = self._idle_looks, []
        if self._fixed:
            return
        fresh = decoded - before_windows
        self._schedule.decoders.at_once = self._steer.look(
            (decode_s - before_s) / fresh if fresh else None,
            self._pool.window_s,
            self._pool.up,
            sum(looks) / max(1, len(looks)),
            self._schedule.ready,
        )

    # --- The autoscaler.

    def _ask(self, replicas: int) -> None:
        bundles = room_for(replicas, self._profile, self._steer.decode_s, self._steer.watch_s)
        with contextlib.suppress(Exception):  # a hint: a cluster without an autoscaler has no use for it
            request_resources(bundles=bundles)

    # --- What may be stuck.

    def suspects(self, streams: Streams, committer: Committer, quiet_s: float) -> Iterator[Suspect]:
        """All decoding, watching and committing. What hangs beyond all measure is ended; decoding in progress has its
        own limit."""
        limit_s = PATIENCE * quiet_s
        for stream in streams:
            uri = stream.order.segments[0].video.uri
            if stream.expects == "started":
                where = "no node has room for its task yet"
                yield Suspect("decode", uri, where, stream.opened, limit_s, partial(streams.end, stream))
            elif stream.since is not None:
                yield Suspect("decode", uri, self._nodes.name(stream.node), stream.since, slow_s=0.0)
        for member in self._pool.busy():
            assert member.batch is not None
            window = member.batch.members[0].window
            where = f"{member.name} on {self._nodes.name(member.nodes[0] if member.nodes else '')}"
            what = f"{self._schedule.name_of(window)} window {window.index}"
            slow_s, hangs_s = self._pool.patience(member)
            end = partial(self._pool.end, member)
            yield Suspect("watch", what, where, member.since, max(limit_s, hangs_s), end, slow_s)
        for member in self._pool.starting():  # a large model takes its time; the pool ends it
            placed = member.placed_at is not None
            began = member.placed_at or member.since
            where = "it loads its model" if placed else "no node has room for it yet"
            if time.monotonic() - began >= COMING_UP * quiet_s:
                yield Suspect("watch", member.name, where, began, slow_s=0.0 if placed else None)
        if (ends := self._pool.unanswered_ends()) is not None:
            yield Suspect("watch", "replicas", ends[1], ends[0])
        if (since := committer.busy_since()) is not None:
            yield Suspect("commit", "the event log", committer.trouble, since, slow_s=0.0)
