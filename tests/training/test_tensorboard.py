"""Event files that TensorBoard reads."""

import struct

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from skipsr_jax.training.tensorboard import TensorBoardWriter


def events(folder):
    """The events of all files, in the order of their names."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_scalars_pictures_and_the_step_to_purge_from(tmp_path):
    writer = TensorBoardWriter(str(tmp_path / "tb"), 5)
    writer.write_scalars(7, {"loss": 0.5, "psnr": 30.0})
    writer.write_image(7, "samples/0", np.zeros((4, 6, 3), np.uint8))
    found = list(events(tmp_path / "tb"))  # what is written can be read at once
    writer.close()
    _, start, loss, psnr, image = found
    assert start.step == 5 and start.session_log.status
    assert [(e.step, e.summary.value[0].tag) for e in (loss, psnr)] == [(7, "loss"), (7, "psnr")]
    assert loss.summary.value[0].simple_value == 0.5
    assert (image.summary.value[0].image.height, image.summary.value[0].image.width) == (4, 6)


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path, caplog):
    (tmp_path / "tb").write_text("a file")
    writer = TensorBoardWriter(str(tmp_path / "tb"), 1)
    for step in range(100):
        writer.write_scalars(step, {"loss": 0.5})
    writer.close()
    assert caplog.text.count("cannot be written") == 1
