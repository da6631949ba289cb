"""Storage that fails for everybody: no video's fault, so the run waits for it and tries one thing at a time."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import SecondsightError

MANY = 3  # things that fail, with none that succeeds in between, are no coincidence
PROBE_S = 5.0  # between two tries, while it lasts


class Outage:
    """`what` is said of it while it lasts, `patience_s` at most (0: there is none); `tell(why)` hears when it begins.

    Of the archive's store it is looked meanwhile whether what could be read before still can (workers/identify.py):
    then it is `over`, and what fails is to blame itself. A state machine without a clock: `now` is monotonic seconds.
    """

    def __init__(self, what: str, patience_s: float = 0.0, tell: Callable[[str], None] = lambda why: None) -> None:
        self._what, self._patience_s, self._tell = what, patience_s, tell
        self.why = ""  # what it was the last time; "": there is no outage
        self._failing: set[str] = set()  # since something succeeded
        self._since = self._next = 0.0

    def over(self) -> None:
        """Something succeeded."""
        self.why = ""
        self._failing.clear()

    def failed(self, name: str, detail: str, last: bool, now: float) -> bool:
        """The storage failed over `name`, which would be given up for it now if it is the `last` of its tries.

        Returns whether nobody is to blame: it is to be tried again as soon as `may_try`, as often as it takes. Raises
        SecondsightError where the outage lasts for too long.
        """
        again = name in self._failing
        self._since = self._since if self._failing else now
        self._failing.add(name)
        many = len(self._failing) >= MANY
        if not self._patience_s or not (self.why or many or (last and again)):
            return False
        if now - self._since > self._patience_s:
            if many:
                raise SecondsightError(f"{self._what}: {detail}; it stayed so for more than {self._patience_s:g} s")
            self.why = ""  # nothing else tells whether it is the storage or these: their last tries go on
            return False
        first, self.why = not self.why, f"{self._what}: {detail}"
        self._next = max(self._next, now + PROBE_S)
        if first:
            self._tell(self.why)
        return True

    def may_try(self, now: float) -> bool:
        """Whether something may be started that needs the storage; while it is out, one thing every `PROBE_S`."""
        if not self.why:
            return True
        if now < self._next:
            return False
        self._next = now + PROBE_S
        return True
