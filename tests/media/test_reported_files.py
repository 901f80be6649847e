"""Small files after public reports (the reference data's faults/): each as its README.md expects.

Other tests make such files themselves where PyAV or Pillow can. These are the originals.
"""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_results import doubled
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.inference import outputs
from skipsr_jax.inference.settings import Output
from skipsr_jax.media.image_reader import read_image
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.reader import open_media

pytestmark = pytest.mark.slow

VIDEOS = {  # frames, seconds, what is said
    "audio_equal_timestamps_to_mp4.mkv": (9, 0.36, ""),
    "avchd_paff_one_pes_per_frame.mts": (8, 0.32, "deinterlaced"),
    "avi_by_ffmpeg_refused.avi": (9, 0.44, ""),
    "avi_null_frames_refused.avi": (6, 1.0, ""),
    "build_trimmed_editlist.mp4": (11, 0.52, ""),
    "depth_8_to_10bit_black.ts": (10, 0.32, "10 bits instead of 8: converted"),
    "flv_nellymoser.flv": (9, 0.36, "audio track 1 (nellymoser) is converted to AAC"),
    "gif_final_pause_lost.gif": (5, 2.4, ""),
    "hdr10_mastering_metadata_lost.mp4": (5, 0.2, ""),
    "interlaced_h264_silent.mp4": (9, 0.36, "deinterlaced"),
    "latin1_title.mp4": (5, 0.2, ""),
    "m2ts_pcm_bluray.m2ts": (9, 0.36, "audio track 1 (pcm_bluray) is converted to FLAC"),
    "mkv_two_audio_lang_subs_chapters_lost.mkv": (9, 0.36, ""),
    "nine_bit_refused.mkv": (5, 0.2, ""),
    "prores4444_alpha_lost_and_codec_dead_end.mov": (5, 0.2, ""),
    "size_changes_midstream.ts": (10, 0.32, "80x64 instead of 64x48: scaled"),
    "ts_joined_timestamps_reset.ts": (18, 0.72, ""),
    "vfr_last_frame_2s_lost.mp4": (5, 3.0, ""),
    "vfr_one_duplicate_pts.mkv": (7, 1.0, ""),
    "video_starts_half_second_late_audio_cut.mp4": (9, 0.36, ""),
    "wmv_wmav2_audio.wmv": (9, 0.36, ""),
}
TIMES = {
    "avi_by_ffmpeg_refused.avi": [0, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32, 0.36, 0.4],
    "avi_null_frames_refused.avi": [0, 0.1, 0.2, 0.5, 0.6, 0.9],
    "vfr_one_duplicate_pts.mkv": [0, 0.1, 0.133, 0.266, 0.4, 0.433, 0.9],
}
AUDIO = {  # codecs, and seconds of the first track
    "audio_equal_timestamps_to_mp4.mkv": (["aac"], 0.35),
    "avchd_paff_one_pes_per_frame.mts": (["aac"], 0.35),
    "flv_nellymoser.flv": (["aac"], 0.37),
    "m2ts_pcm_bluray.m2ts": (["flac"], 0.36),
    "mkv_two_audio_lang_subs_chapters_lost.mkv": (["aac", "ac3"], 0.39),
    "ts_joined_timestamps_reset.ts": (["aac"], 0.76),
    "video_starts_half_second_late_audio_cut.mp4": (["aac"], 1.0),
    "wmv_wmav2_audio.wmv": (["wmav2"], 0.33),
}


@pytest.fixture
def faults(shared):
    return shared / "faults"


def audio_of(path):
    """The codecs of the audio tracks, and how long the first is."""
    with av.open(str(path)) as container:
        codecs = [s.codec_context.codec.canonical_name for s in container.streams.audio]
        seconds = sum(f.samples / f.sample_rate for f in container.decode(audio=0))
    return codecs, seconds


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_times_and_audio(faults, tmp_path, name, caplog):
    frames, seconds, said = VIDEOS[name]
    source = faults / name
    result, lines = doubled(source, tmp_path)
    assert any(said in line for line in [*lines, caplog.text])
    media = open_media(result)
    pictures = list(media.frames())
    assert len(pictures) == frames and abs(float(media.timing.duration) - seconds) < 0.003
    for mine, original in zip(pictures, open_media(source).frames(), strict=True):
        means = [p.mean(axis=(0, 1)) / np.iinfo(p.dtype).max for p in (mine, original)]
        assert abs(means[0] - means[1]).max() < 0.03
    if name in TIMES:
        assert [float(time) for time in media.times] == pytest.approx(TIMES[name], abs=0.002)
    if name in AUDIO:
        codecs, length = audio_of(result)
        assert codecs == AUDIO[name][0] and abs(length - AUDIO[name][1]) < 0.04


def test_equal_time_stamps_of_audio_reach_mp4(faults, tmp_path):
    result, _ = doubled(faults / "audio_equal_timestamps_to_mp4.mkv", tmp_path, ".mp4")
    assert audio_of(result)[1] == pytest.approx(0.35, abs=0.03)


def test_the_depth_may_change_without_black_frames(faults):
    frames = open_media(faults / "depth_8_to_10bit_black.ts").frames()
    assert min(np.median(frame) for frame in frames) > 30


def test_tracks_chapters_titles_and_hdr_are_carried_over(faults, tmp_path):
    result, _ = doubled(faults / "mkv_two_audio_lang_subs_chapters_lost.mkv", tmp_path)
    with av.open(str(result)) as container:
        sounds, (text,) = container.streams.audio, container.streams.subtitles
        assert [s.metadata["language"] for s in (*sounds, text)] == ["eng", "jpn", "ger"]
        default = av.stream.Disposition.default
        assert [bool(s.disposition & default) for s in sounds] == [False, True]
        assert [c["metadata"]["title"] for c in container.chapters()] == ["One", "Two"]
    result, _ = doubled(faults / "latin1_title.mp4", tmp_path)
    with av.open(str(result)) as container:
        assert container.metadata["title"] == "Café été"
    name = "hdr10_mastering_metadata_lost.mp4"
    result, _ = doubled(faults / name, tmp_path)
    before, after = open_media(faults / name).video.hdr, open_media(result).video.hdr
    assert after == before and before.light and before.primaries and before.luminance


def test_the_start_after_the_audio_is_kept(faults, tmp_path):
    result, _ = doubled(faults / "video_starts_half_second_late_audio_cut.mp4", tmp_path)
    assert float(open_media(result).timing.start) == pytest.approx(0.5, abs=0.002)


def test_the_aspect_where_both_sides_are_set(faults, tmp_path):
    result, _ = doubled(faults / "sar64_45_both_sides_given.mp4", tmp_path, size=(96, 170))
    media = open_media(result)
    shown = media.sample_aspect_ratio * Fraction(media.width, media.height)
    assert (media.height, media.width) == (96, 170) and float(shown) == pytest.approx(
        1.77, abs=0.02
    )


def test_alpha_is_kept(faults, tmp_path):
    result, _ = doubled(faults / "prores4444_alpha_lost_and_codec_dead_end.mov", tmp_path)
    assert open_media(result).has_alpha
    result, _ = doubled(faults / "alpha_lost.png", tmp_path)
    alpha = np.array(Image.open(result).getchannel("A"))
    source = np.array(Image.open(faults / "alpha_lost.png").getchannel("A"))
    assert abs(alpha.mean() - source.mean()) < 2 and alpha.min() < 10


def test_pictures(faults):
    assert read_image(faults / "png16_exif6_sideways.png").rgb.shape == (64, 48, 3)
    grey = read_image(faults / "tiff_float_gray_black.tif").rgb
    assert grey.dtype == np.uint16 and 0.1 < grey.mean() / 65535 < 0.9 and np.ptp(grey) > 20000
    assert read_image(faults / "gray_icc_left_on_rgb_png.png").icc_profile is None


def test_a_size_that_webp_cannot_hold_is_refused(faults, tmp_path):
    media = open_media(faults / "x16_to_webp_traceback.png")
    size = 16 * media.height, 16 * media.width
    with pytest.raises(UserError, match="holds at most 16383 pixels"):
        outputs.check_output(tmp_path / "a.webp", media, size, Output(), False)


def test_a_truncated_frame_is_named_and_a_folder_of_clips_is_done(faults, tmp_path):
    with pytest.raises(UserError, match=r"1 of 5 frames cannot be read: f_0003\.png"):
        open_media(faults / "frames_one_truncated_png")
    files = list_inputs(faults / "batch_one_broken")
    assert [file.name for file in files] == ["a.mp4", "b.ts", "c.mp4"]
    for file in files:
        doubled(file, tmp_path)
