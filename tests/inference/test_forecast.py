"""What a run is foreseen to take, and the note of what one took."""

import dataclasses
import math

import jax
import pytest
import small_model

from skipsr_jax.inference.cost import described
from skipsr_jax.inference.forecast import (
    LOADED_BYTES,
    OF_SIZE,
    START_SECONDS,
    Speed,
    Stopwatch,
    chunk_lengths,
    forecast,
    missing_programs,
    operations,
    process_start,
    read_speed,
    write_speed,
)
from skipsr_jax.inference.program_cache import Counts, ProgramCache
from skipsr_jax.inference.programs import Programs, description
from skipsr_jax.inference.settings import Chunk, Mask, Sampler, Settings
from skipsr_jax.inference.slot_choice import flops_per_slot
from skipsr_jax.inference.warmup import chunk_lengths as lengths_of_programs
from skipsr_jax.models.params import nbytes

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
    one = forecast(model, settings, (9, SIZE), speed, missing=0.0)
    two = forecast(model, settings, (16, SIZE), speed, missing=1.0)
    assert (one.chunks, two.chunks) == (1, 2)
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert (one.start, one.programs) == (3.0, 0.0)
    assert (two.start, two.programs) == (3.0, 20.0)
    assert one.seconds == pytest.approx(operations(model, settings, (9, SIZE)) / 1e9)
    assert one.bucket.tokens >= 3 * 4 * 6
    some = forecast(model, settings, (16, SIZE), speed, missing=0.25)
    assert (some.start, some.programs) == (3.0, 5.0)
    unknown = forecast(model, settings, (9, SIZE), None, missing=1.0)
    assert min(unknown.seconds, unknown.start, unknown.programs) > 0
    never = dataclasses.replace(speed, programs=0.0)  # no run that compiled them was measured
    assert forecast(model, settings, (9, SIZE), never, missing=0.5).programs == (
        unknown.programs / 2
    )
    guided = Settings(checkpoint="m", chunk=Chunk(9, 2), sampler=Sampler(4, 2.0))
    assert operations(model, guided, (9, SIZE)) > operations(model, settings, (9, SIZE))


def test_an_unmeasured_start_counts_the_parameters(small):
    settings, model = small
    parameters = nbytes(model.params)
    start = forecast(model, settings, (9, SIZE), None, missing=1.0).start
    assert start == pytest.approx(START_SECONDS + parameters / LOADED_BYTES)
    assert parameters > 0


def test_the_first_latent_frame_codes_one_frame_of_four(small):
    settings, model = small
    coder = sum(flops_per_slot(direction, model) for direction in ("encode", "decode"))
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params["dit"]))
    picture, clip = (operations(model, settings, (frames, SIZE)) for frames in (1, 5))
    assert picture == pytest.approx(4 * 6 * (coder / 4 + 2 * weights))
    assert clip - picture == pytest.approx(4 * 6 * (coder + 2 * weights))


def test_a_run_notes_its_speed_for_later_ones(small, tmp_path):
    settings, model = small
    assert read_speed(tmp_path, model, settings) is None
    write_speed(tmp_path, model, settings, Speed(2.0, 30.0, 5e9))
    write_speed(tmp_path, model, settings, Speed(1.0, 0.0, 6e9))  # its programs were there
    assert read_speed(tmp_path, model, settings) == Speed(1.0, 30.0, 6e9)
    write_speed(tmp_path, model, settings, Speed(1.0, 20.0, 6e9))  # on a machine less busy
    assert read_speed(tmp_path, model, settings) == Speed(1.0, 20.0, 6e9)
    (noted,) = tmp_path.iterdir()
    noted.write_text("{")
    assert read_speed(tmp_path, model, settings) is None
    write_speed(None, model, settings, Speed(1.0, 0.0, 1.0))
    assert read_speed(None, model, settings) is None


@pytest.mark.parametrize(
    "compiled,loaded,speed",
    [  # start: 10 - 1 - 4 s; 15 s of the clip, of which the device worked for 6
        (3, 0, (5.0, 4.0 + 9.0)),
        (3, 1, (5.0, (4.0 + 9.0) * 4 / 3)),
        (1, 3, (5.0, 0.0)),
        (0, 4, (5.0 + 9.0, 0.0)),
    ],
)
def test_programs_and_work_are_timed_apart(small, monkeypatch, compiled, loaded, speed):
    settings, model = small
    now = iter([10.0, 25.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    counts = Counts(compiled=compiled, loaded=loaded, waited_seconds=4.0)
    watch = Stopwatch(started=1.0)
    with watch.clip(counts):
        counts.waited_seconds += 5.0  # while the device was at work
    watch.done(model, settings, (9, SIZE), busy=6.0)
    found = watch.speed(counts)
    assert (found.start, found.programs) == pytest.approx(speed)
    assert found.rate == pytest.approx(operations(model, settings, (9, SIZE)) / 6.0)


@pytest.mark.parametrize("computed,start", [(2.0, 98.0), (1000.0, 100.0)])
def test_the_start_of_a_process_is_before_its_imports(monkeypatch, computed, start):
    monkeypatch.setattr("time.perf_counter", lambda: 100.0)
    monkeypatch.setattr("time.process_time", lambda: computed)
    assert process_start() == start


def test_programs_of_the_size_are_missed_no_more(small, tmp_path, monkeypatch):
    settings, model = small
    assert missing_programs(model, settings, (9, SIZE), None) == 1.0
    assert missing_programs(model, settings, (9, SIZE), tmp_path) == 1.0
    cache = ProgramCache(tmp_path)
    coder = Programs(model, cache).coder
    plan = coder.dense_plan(SIZE, settings.slice_latents, settings.vae_memory_gib)
    encode, decode = coder._dense(plan.tiles)
    shapes = coder._shapes(SIZE, 1, 1, (None, None))
    for program, arguments in zip((encode, decode), shapes, strict=True):
        (tmp_path / program.file_name(program._key(arguments, {}))).touch()
    assert missing_programs(model, settings, (9, SIZE), tmp_path) == 1.0 - OF_SIZE
    assert missing_programs(model, settings, (9, (64, 112)), tmp_path) == 1.0
    cache._list_of((settings, description(model), (9, SIZE))).touch()
    assert missing_programs(model, settings, (9, SIZE), tmp_path) == 0.0
    assert missing_programs(model, settings, (40, SIZE), tmp_path) == 0.0  # in chunks of 9
    assert missing_programs(model, settings, (5, SIZE), tmp_path) == 1.0 - OF_SIZE
