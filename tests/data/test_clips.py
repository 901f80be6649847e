"""Finding and reading training clips."""

import fractions

import av
import numpy as np
import pytest
from PIL import Image

from skipsr_jax.data.clips import decode, find_sources, read
from skipsr_jax.errors import UserError


def write_video(path, frames):
    """Lossless, with a key frame every four frames."""
    with av.open(str(path), "w") as container:
        options = {"g": "4", "qp": "0", "bf": "2"}
        stream = container.add_stream("libx264rgb", rate=fractions.Fraction(25), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (11, 32, 48, 3), np.uint8)
    write_video(root / "b.mkv", frames)
    (root / "shot").mkdir()
    for i in (9, 10, 11):  # by number, not by name
        Image.fromarray(frames[i - 9]).save(root / "shot" / f"f{i}.png")
    Image.fromarray(frames[0]).save(root / "photo.png")
    (root / "notes.txt").write_text("passed over")
    return root, frames


def test_sources_are_found_with_their_sizes(root):
    sources = find_sources([str(root[0])])
    got = [(s.kind, s.frames, s.height, s.width) for s in sources]
    assert got == [("video", 11, 32, 48), ("image", 1, 32, 48), ("frames", 3, 32, 48)]


@pytest.mark.parametrize(("start", "count"), [(0, 11), (3, 5), (10, 1)])
def test_any_stretch_of_a_video_is_exact(root, start, count, tmp_path):
    source = find_sources([str(root[0])])[0]
    want = root[1][start : start + count]
    np.testing.assert_array_equal(decode(source, start, count), want)
    for _ in range(2):  # fills the cache, then reads it
        np.testing.assert_array_equal(read(source, start, count, str(tmp_path)), want)
    assert len(list(tmp_path.iterdir())) == 1


def test_frame_folders_run_by_number(root):
    source = find_sources([str(root[0])])[2]
    np.testing.assert_array_equal(decode(source, 1, 2), root[1][1:3])


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="not found"):
        find_sources([str(tmp_path / "absent")])
    with pytest.raises(UserError, match="no videos or pictures"):
        find_sources([str(tmp_path)])
    (tmp_path / "broken.mp4").write_text("text")
    with pytest.raises(UserError, match=r"broken\.mp4"):
        find_sources([str(tmp_path)])
