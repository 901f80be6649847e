"""Goodput: which share of a run's wall time went into training steps, and what took the rest.

The wall time is that of all starts of a run in its workdir; the time between two starts is not in
it. Each moment is of one kind (`KINDS`), so the shares add up to 100 %. Steps that a killed run
made after the checkpoint that the next start continues from are moved from ``steps`` to ``redo``:
they are made again. The run notes its seconds in ``goodput.json`` of the workdir at each logged
step and at its end, and in each checkpoint; the difference of the two is what was lost. Steps after
the last logged one of a killed run are not known, and not counted.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping

import jax

from skipsr_jax.checkpoints import store
from skipsr_jax.files import new_file

KINDS = ("steps", "start", "compile", "data", "save", "evaluation", "redo")
"""What a moment may be spent on.

``start``: until the first step, restoring included. ``compile``: the first step of each kind of
batch. ``data``: the host waits for a batch. ``save``: checkpoints. ``evaluation``: held-out data
and pictures. ``redo``: steps that were lost. ``steps``: all the rest.
"""


class Goodput:
    """Counts the seconds of each kind, from ``began`` (of ``time.monotonic``) on.

    Args:
      workdir: of the run.
      began: when this start of the run began.
      saved: ``seconds`` at the checkpoint that the run continues from; empty without one.
    """

    def __init__(self, workdir: store.PathLike, began: float, saved: Mapping[str, float]):
        self._path = store.absolute(workdir) / "goodput.json"
        self._kind, self._since = "start", began
        noted = _read(self._path)
        self._seconds = {kind: max(saved.get(kind, 0.0), noted.get(kind, 0.0)) for kind in KINDS}
        lost = self._seconds["steps"] - saved.get("steps", 0.0)
        self._seconds["steps"] -= lost
        self._seconds["redo"] += lost

    def enter(self, kind: str) -> None:
        """From now on the time is of this kind."""
        now = time.monotonic()
        self._seconds[self._kind] += now - self._since
        self._kind, self._since = kind, now

    @contextlib.contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """A context whose time is of this kind."""
        before = self._kind
        self.enter(kind)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[str, float]:
        """Seconds of each kind until now, over all starts."""
        self.enter(self._kind)
        return dict(self._seconds)

    def report(self) -> dict[str, float]:
        """Shares of the wall time in percent: ``goodput_percent`` of steps, the others by kind."""
        seconds = self.seconds()
        whole = sum(seconds.values()) or 1.0
        fractions = {f"badput/{kind}_percent": 100 * seconds[kind] / whole for kind in KINDS[1:]}
        return {"goodput_percent": 100 * seconds["steps"] / whole} | fractions

    def note(self) -> None:
        """Writes ``seconds`` into the workdir, on the first host.

        A file that cannot be written is left: metrics.jsonl is in the same folder, and its writer
        says so.
        """
        if jax.process_index() == 0:
            with contextlib.suppress(OSError), new_file(self._path, overwrite=True) as temporary:
                temporary.write_text(json.dumps(self.seconds()))


def _read(path: store.epath.Path) -> dict[str, float]:
    """The seconds that a run has noted; empty where there are none that can be read."""
    try:
        found = json.loads(path.read_text())
        return {kind: max(0.0, float(found.get(kind, 0.0))) for kind in KINDS}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
