"""What a run is foreseen to take, and the note of what one took."""

import pytest
import small_model

from skipsr_jax.inference.cost import COMPILER_BYTES, described
from skipsr_jax.inference.forecast import (
    Speed,
    Stopwatch,
    chunk_lengths,
    forecast,
    operations,
    read_speed,
    write_speed,
)
from skipsr_jax.inference.program_cache import Counts
from skipsr_jax.inference.settings import Chunk, Mask, Sampler, Settings
from skipsr_jax.inference.warmup import chunk_lengths as lengths_of_programs

SIZE = (64, 96)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = small_model.write_small_model(tmp_path_factory.mktemp("forecast") / "m")
    settings = Settings(checkpoint=path, chunk=Chunk(9, 2), mask=Mask("none"))
    return settings, described(settings)


@pytest.mark.parametrize(
    "frames,lengths", [(1, [1]), (9, [9]), (10, [9, 3]), (16, [9, 9]), (20, [9, 9, 6])]
)
def test_chunks_are_those_of_the_pipeline(frames, lengths):
    chunk = Chunk(9, 2)
    assert chunk_lengths(frames, chunk) == lengths
    assert set(lengths_of_programs(frames, chunk)) == set(lengths)
    new = [lengths[0], *(length - 2 for length in lengths[1:])]
    assert sum(new) == frames


def test_time_follows_the_work_and_an_earlier_run(small):
    settings, model = small
    speed = Speed(start=3.0, programs=20.0, rate=1e9)
    one = forecast(model, settings, (9, SIZE), speed, compiled=True)
    two = forecast(model, settings, (16, SIZE), speed, compiled=False)
    assert (one.chunks, two.chunks) == (1, 2)
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert (one.start, two.start) == (3.0, 23.0)
    assert one.seconds == pytest.approx(operations(model, settings, (9, SIZE)) / 1e9)
    assert one.bucket.tokens >= 3 * 4 * 6
    unknown = forecast(model, settings, (9, SIZE), None, compiled=False)
    assert unknown.seconds > 0
    assert unknown.memory.total - one.memory.total == COMPILER_BYTES
    guided = Settings(checkpoint="m", chunk=Chunk(9, 2), sampler=Sampler(4, 2.0))
    assert operations(model, guided, (9, SIZE)) > operations(model, settings, (9, SIZE))


def test_a_run_notes_its_speed_for_later_ones(small, tmp_path):
    settings, model = small
    assert read_speed(tmp_path, model, settings) is None
    write_speed(tmp_path, model, settings, Speed(2.0, 30.0, 5e9))
    write_speed(tmp_path, model, settings, Speed(1.0, 0.0, 6e9))  # its programs were there
    assert read_speed(tmp_path, model, settings) == Speed(1.0, 30.0, 6e9)
    (noted,) = tmp_path.iterdir()
    noted.write_text("{")
    assert read_speed(tmp_path, model, settings) is None
    write_speed(None, model, settings, Speed(1.0, 0.0, 1.0))
    assert read_speed(None, model, settings) is None


def test_programs_are_timed_apart(small, monkeypatch):
    settings, model = small
    now = iter([10.0, 25.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    counts = Counts(compiled=2, waited_seconds=4.0)
    watch = Stopwatch(started=1.0)
    with watch.clip(counts):
        counts.waited_seconds += 5.0
    watch.done(model, settings, (9, SIZE))
    rate = operations(model, settings, (9, SIZE)) / (25.0 - 10.0 - 5.0)
    found = watch.speed(counts)
    assert (found.start, found.programs) == (10.0 - 1.0 - 4.0, 9.0)
    assert found.rate == pytest.approx(rate)
