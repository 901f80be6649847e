"""Compiled programs kept between runs: equal results, no tracing, damaged files compiled again."""

import errno
import os
import pathlib
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.inference.program_cache import SUFFIX, ProgramCache

X = np.arange(12, dtype=np.float32).reshape(3, 4)

pytestmark = pytest.mark.usefixtures("cache_of_jax")


def test_what_the_cache_of_jax_supplies_is_not_stored_a_second_time(tmp_path, cache_of_jax):
    """On CPUs such an executable can be serialized and loaded, but not run."""
    cache_of_jax(str(tmp_path / "jax"))
    threshold = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        for folder, stored in (("a", 1), ("b", 0), ("b", 0)):
            got = ProgramCache(tmp_path / folder).program("p", traced_function([]))(X, X)
            np.testing.assert_array_equal(got["sum"], 2 * X)
            assert len(list((tmp_path / folder).glob("*" + SUFFIX))) == stored
        again = traced_function([])
        again.lower(X, X).compile()  # from the cache of JAX, and now in memory
        ProgramCache(tmp_path / "c").program("p", again)(X, X)
        assert not list((tmp_path / "c").glob("*" + SUFFIX))
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", threshold)


def traced_function(log):
    def function(x, y):
        log.append(x.shape)
        return {"sum": x + y, "product": x @ y.T}

    return jax.jit(function)


def test_a_second_cache_loads_what_the_first_compiled_and_traces_nothing(tmp_path):
    first_log, second_log = [], []
    first = ProgramCache(tmp_path / "programs")
    want = first.program("p", traced_function(first_log))(X, X + 1)
    second = ProgramCache(tmp_path / "programs")
    got = second.program("p", traced_function(second_log))(X, X + 1)
    jax.tree.map(np.testing.assert_array_equal, want, got)
    assert (first.counts.compiled, first.counts.loaded) == (1, 0)
    assert (second.counts.compiled, second.counts.loaded) == (0, 1)
    assert len(first_log) == 1 and second_log == []


@pytest.mark.parametrize("change", ["shape", "dtype", "description", "name", "tree"])
def test_whatever_changes_the_program_changes_the_key(tmp_path, change):
    ProgramCache(tmp_path).program("p", traced_function([]), "sizes 1")(X, X)
    cache = ProgramCache(tmp_path)
    name = "q" if change == "name" else "p"
    description = "sizes 2" if change == "description" else "sizes 1"
    program = cache.program(name, traced_function([]), description)
    if change == "tree":
        program = cache.program(name, jax.jit(lambda pair: pair[0] + pair[1]), description)
        program((X, X))
    elif change == "shape":
        program(X[:2], X[:2])
    else:
        y = X.astype(np.int32) if change == "dtype" else X
        program(y, y)
    assert (cache.counts.compiled, cache.counts.loaded) == (1, 0)


def test_programs_of_a_mesh_are_kept(tmp_path):
    mesh = jax.make_mesh((4,), ("seq",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "seq"))
    x = jax.device_put(X, sharding)
    caches = [ProgramCache(tmp_path) for _ in range(3)]
    for cache in caches[:2]:
        got = cache.program("p", jax.jit(lambda x: x + x.sum()))(x)
        np.testing.assert_array_equal(got, X + X.sum())
        assert got.sharding == sharding
    caches[2].program("p", jax.jit(lambda x: x + x.sum()))(X)
    assert [cache.counts.loaded for cache in caches] == [0, 1, 0]


def run_of_two_programs(folder, facts=("tiny", 720)):
    """A run that asks for two programs; the cache, when nothing is being loaded any more."""
    cache = ProgramCache(folder)
    cache.preload(*facts)
    preloaded = [future.result() is not None for future in cache._preloaded.values()]
    for name in ("p", "q"):
        cache.program(name, traced_function([]))(X, X)
    cache.remember()
    return cache, preloaded


def test_what_the_last_run_used_is_loaded_before_it_is_asked_for(tmp_path):
    assert run_of_two_programs(tmp_path)[1] == []
    cache, preloaded = run_of_two_programs(tmp_path)
    assert preloaded == [True, True]
    assert (cache.counts.compiled, cache.counts.loaded, cache._preloaded) == (0, 2, {})
    assert run_of_two_programs(tmp_path, ("tiny", 1080))[1] == []


def test_a_list_that_names_absent_or_damaged_programs_does_no_harm(tmp_path, caplog):
    run_of_two_programs(tmp_path)
    first, second = sorted(tmp_path.glob("*" + SUFFIX))
    first.unlink()
    second.write_bytes(b"cut")
    cache, preloaded = run_of_two_programs(tmp_path)
    assert preloaded == [False, False] and cache.counts.compiled == 2
    (recent,) = tmp_path.glob("*.recent")
    recent.write_text("../../secret.program\nff-00.program\n\0")
    assert run_of_two_programs(tmp_path)[0].counts.loaded == 2


def test_static_arguments_are_part_of_the_key(tmp_path):
    function = jax.jit(lambda x, power: x**power, static_argnames="power")
    program = ProgramCache(tmp_path).program("power", function)
    np.testing.assert_array_equal(program(X, power=2), X**2)
    np.testing.assert_array_equal(program(X, power=3), X**3)
    assert program.signatures == 2


def test_programs_are_prepared_from_shapes(tmp_path):
    cache = ProgramCache(tmp_path)
    program = cache.program("p", traced_function([]))
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    program.prepare(shape, shape).result()
    program(X, X)
    assert cache.counts.compiled == 1
    assert program.is_kept(X, X) and not program.is_kept(X[:2], X[:2])


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a pickle", "cut"])
def test_a_damaged_file_is_compiled_again_and_replaced(tmp_path, content, caplog):
    ProgramCache(tmp_path).program("p", traced_function([]))(X, X)
    (file,) = tmp_path.glob("*" + SUFFIX)
    file.write_bytes(file.read_bytes()[:200] if content == "cut" else content)
    cache = ProgramCache(tmp_path)
    got = cache.program("p", traced_function([]))(X, X)
    np.testing.assert_array_equal(got["sum"], 2 * X)
    assert cache.counts.compiled == 1 and "compiled again" in caplog.text
    again = ProgramCache(tmp_path)
    again.program("p", traced_function([]))(X, X)
    assert again.counts.loaded == 1


def test_without_a_folder_nothing_is_kept():
    program = ProgramCache(None).program("p", traced_function([]))
    np.testing.assert_array_equal(program(X, X)["sum"], 2 * X)


@pytest.mark.parametrize("folder", ["file/programs", "file", "a" * 300])
def test_a_folder_that_cannot_be_used_is_said_once_and_the_result_is_there(
    tmp_path, folder, caplog
):
    (tmp_path / "file").write_text("")
    cache = ProgramCache(tmp_path / folder)
    for name in "pq":
        program = cache.program(name, traced_function([]))
        np.testing.assert_array_equal(program(X, X)["sum"], 2 * X)
        assert not cache.has_file(program, "key") and not cache.has_list(name)
    assert caplog.text.count("not kept in") == 1 and str(tmp_path) in caplog.text
    assert (cache.counts.compiled, cache.counts.not_stored) == (2, 2)


def test_a_program_that_a_full_disk_has_no_room_for_is_counted(tmp_path, caplog, monkeypatch):
    cache = ProgramCache(tmp_path)
    cache.program("kept", traced_function([]))(X, X)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(pathlib.Path, "write_bytes", mock.Mock(side_effect=full))
    for name in "pq":
        cache.program(name, traced_function([]))(X, X)
    assert (cache.counts.compiled, cache.counts.not_stored) == (3, 2)
    assert caplog.text.count("No space left") == 1 and len(list(tmp_path.iterdir())) == 1


def test_errors_of_compiling_reach_the_caller():
    program = ProgramCache(None).program("p", jax.jit(lambda x: x @ jnp.ones((7, 7))))
    with pytest.raises(TypeError, match="dot_general"):
        program(X)


def test_another_process_loads_the_program(tmp_path):
    code = (
        "import sys, jax, numpy as np\n"
        "from skipsr_jax.inference.program_cache import ProgramCache\n"
        f"cache = ProgramCache({str(tmp_path)!r})\n"
        "f = cache.program('p', jax.jit(lambda x: jax.numpy.sin(x) * 2))\n"
        "print(float(f(np.float32([1, 2]))[1]), cache.counts.compiled, cache.counts.loaded)\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True, env=dict(os.environ, JAX_PLATFORMS="cpu"),
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert outputs[0][0] == outputs[1][0]
    assert [run[1:] for run in outputs] == [["1", "0"], ["0", "1"]]
