"""Writes TensorBoard events, in the thread of the caller.

tensorboardX's own SummaryWriter writes in a thread, which ends when the disk is full; its queue
then fills, and the training loop would wait for it for ever. Invariant: events that cannot be
written delay nothing and stop nothing; they are left out, with one warning.
"""

import logging
import os
import time

from skipsr_jax.errors import imports_of_extra
from skipsr_jax.types import HostArray, UInt8

with imports_of_extra("train"):
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog


class TensorBoardWriter:
    """Appends scalars and pictures to the event files of a folder.

    Args:
      folder: made if needed; local, or on a file system that tensorboardX knows.
      purge_step: events of this step and later ones, which an earlier run wrote, are hidden.
    """

    def __init__(self, folder: str, purge_step: int):
        self._folder, self._purge_step = folder, purge_step
        self._writer: EventsWriter | None = None
        self._failing = False

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Appends one value for each name."""
        self._append([Event(step=step, summary=summary.scalar(*item)) for item in scalars.items()])

    def write_image(self, step: int, name: str, pixels: UInt8[HostArray, "h w 3"]) -> None:
        """Appends a picture, 0..255."""
        image = summary.image(name, pixels, dataformats="HWC")
        self._append([Event(step=step, summary=image)])

    def close(self) -> None:
        """Closes the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                self._warn(error)

    def _append(self, events: list[Event]) -> None:
        try:
            if self._writer is None:
                self._writer = self._opened()
            for event in events:
                event.wall_time = time.time()
                self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:  # the file may end in half an event: the next one gets a new file
            self._warn(error)
            self.close()
        else:
            self._failing = False

    def _opened(self) -> EventsWriter:
        if "://" not in self._folder:
            os.makedirs(self._folder, exist_ok=True)
        writer = EventsWriter(os.path.join(self._folder, "events"), f".{time.time_ns()}")
        start = SessionLog(status=SessionLog.START)
        writer.write_event(Event(step=self._purge_step, session_log=start))
        return writer

    def _warn(self, error: OSError) -> None:
        if not self._failing:
            logging.warning("TensorBoard events in %s cannot be written: %s", self._folder, error)
        self._failing = True
