"""Decoders working in parallel, one GOP each: libavcodec releases the interpreter's lock while it decodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.decode.decoder import Decoder, prepare
from pipeline.decode.limits import DecodeLimits
from pipeline.decode.pictures import Converter
from pipeline.decode.schedule import Batch
from pipeline.decode.source import PacketSource

_BATCHES = 256  # given out and not yet finished
_BYTES = 64 << 20


class Pool:
    """Decoders that take turns: each fresh batch goes to the next one, and what continues it to the same.

    With one thread everything happens in the caller's.
    """

    def __init__(self, source: PacketSource, limits: DecodeLimits, converter: Callable[[], Converter]) -> None:
        self._source, self._limits, self._converter = source, limits, converter
        self._decoders = [Decoder(prepare(source, limits), converter())]
        self._threads: list[ThreadPoolExecutor] = []
        self._extra: list[PacketSource] = []
        self._turn = 0
        self._in_flight: deque[tuple[Future[None], int]] = deque()
        self._in_flight_bytes = 0

    def submit(self, batch: Batch) -> None:
        if batch.pause:
            self.finish()
        elif self._limits.threads <= 1:
            self._decoders[0].run(batch)
        else:
            if batch.fresh:
                self._do(self._decoders[self._turn].finish, 0)
                self._turn = (self._turn + 1) % self._limits.threads
                self._grow()
            decoder = self._decoders[self._turn]
            self._do(lambda: decoder.run(batch), sum(e.size for e in batch.entries))

    def _grow(self) -> None:
        if self._turn == len(self._decoders):
            # A codec context of its own needs all that the container says about the stream: open it once more.
            source = PacketSource(self._source.video, self._limits)
            self._extra.append(source)
            self._decoders.append(Decoder(prepare(source, self._limits), self._converter()))

    def _do(self, work: Callable[[], None], size: int) -> None:
        while len(self._threads) <= self._turn:
            self._threads.append(ThreadPoolExecutor(1, thread_name_prefix="decoder"))
        self._in_flight.append((self._threads[self._turn].submit(work), size))
        self._in_flight_bytes += size
        while self._in_flight and (
            self._in_flight[0][0].done() or len(self._in_flight) > _BATCHES or self._in_flight_bytes > _BYTES
        ):
            self._wait()

    def _wait(self) -> None:
        future, size = self._in_flight.popleft()
        self._in_flight_bytes -= size
        future.result()

    def finish(self) -> None:
        """Finishes all that was submitted."""
        while self._in_flight:
            self._wait()
        for decoder in self._decoders:
            decoder.finish()

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)
        for source in self._extra:
            source.close()
