"""Compiled programs that are kept between runs, so that a warm start neither traces nor compiles.

JAX's own compilation cache skips XLA's compiler but not tracing and lowering, which take about a
second for each program of a large transformer. Here the finished executable is serialized
(``jax.experimental.serialize_executable``) under a key that needs no tracing: the program's name
and description, the shapes, dtypes and shardings of its arguments, and everything else that the
result depends on: versions of jax and of this package's source, the device and its driver, compiler
flags.

    cache = ProgramCache(folder)
    step = cache.program("decode step", jax.jit(...), description=repr(config))
    step.prepare(*abstract_arguments)      # optional: compiles in the background
    step(*arguments)                       # memory, then the folder, then the compiler

Invariant: a program that comes from the folder is the one that compiling would have given. A file
that cannot be read, or that belongs to another user, is compiled again and replaced. An executable
that JAX's own cache supplied, now or earlier in the process, is not serialized again: on CPUs the
copy loads, and then fails to run because it lacks its functions. JAX's cache supplies it to later
runs too, after tracing.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from skipsr_jax.files import is_temporary, new_file, remove_leftovers
from skipsr_jax.inference import recent_programs
from skipsr_jax.inference.compiling import compile_for
from skipsr_jax.inference.program_keys import digest, environment, signature, source_digest

SUFFIX = ".program"
LIMIT_BYTES = 8 * 2**30
"""What the folder may hold; the programs that were used least recently are removed beyond it."""
COMPILERS = 4
"""Programs that are loaded, or traced and compiled, at a time, and as many that are not autotuned,
which would else wait behind those that are (``inference.compiling``)."""
_LOG = logging.getLogger(__name__)
_OF_THREAD = threading.local()


def _on_hit(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _OF_THREAD.hits = getattr(_OF_THREAD, "hits", 0) + 1


def _on_compile(event: str, *_: Any, **__: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":  # of hits too
        _OF_THREAD.compiles = getattr(_OF_THREAD, "compiles", 0) + 1


jax.monitoring.register_event_listener(_on_hit)  # called by the thread that compiles
jax.monitoring.register_event_duration_secs_listener(_on_compile)


def _compiled_by_this_thread() -> int:
    """How many executables XLA has made in this thread.

    Neither those that JAX's cache supplied, nor those that JAX had in memory from an earlier call,
    which may have come from its cache.
    """
    return getattr(_OF_THREAD, "compiles", 0) - getattr(_OF_THREAD, "hits", 0)


def waited_by_this_thread() -> float:
    """Seconds for which this thread has stood still until its programs were there."""
    return getattr(_OF_THREAD, "waited", 0.0)


@dataclasses.dataclass
class Counts:
    """What a cache has done so far: numbers of programs, and seconds spent in all threads.

    Attributes:
      compiled, compile_seconds: traced, lowered and compiled.
      not_stored: of those, the ones that could not be written into the folder.
      loaded, load_seconds: read from the folder.
      waited_seconds: for which a caller stood still until its program was there.
      waiting: the threads that wait for a program now.
    """

    compiled: int = 0
    compile_seconds: float = 0.0
    not_stored: int = 0
    loaded: int = 0
    load_seconds: float = 0.0
    waited_seconds: float = 0.0
    waiting: set[int] = dataclasses.field(default_factory=set)


def _devices_of(compiled: jax.stages.Compiled) -> list[jax.Device]:
    """The devices that a program runs on, in the order of its mesh."""
    for sharding in jax.tree.leaves((compiled.input_shardings, compiled.output_shardings)):
        if isinstance(sharding, jax.sharding.NamedSharding):
            return list(sharding.mesh.devices.flat)
        return sorted(sharding.device_set, key=lambda device: device.id)
    return jax.devices()[:1]


class Program:
    """One function, compiled once for each signature of its arguments. See ``ProgramCache``."""

    def __init__(
        self,
        cache: "ProgramCache",
        name: str,
        function: Callable,
        description: str,
        mesh: Mesh | None,
        autotune: bool,
    ):
        self.name, self.function, self.autotune = name, function, autotune
        self._cache, self._description, self._mesh = cache, description, mesh
        self._programs: dict[Any, Future] = {}
        self._lock = threading.Lock()

    @property
    def signatures(self) -> int:
        """For how many signatures there is a program, or will be one."""
        return len(self._programs)

    def prepare(self, *arguments: Any, **static: Any) -> Future:
        """Begins to load or compile the program for these arguments, in the background.

        ``arguments``: arrays, or ``jax.ShapeDtypeStruct`` with their shardings. ``static``: static
        keyword arguments of the function.
        """
        key = self._key(arguments, static)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = self._cache.submit(self, key, arguments, static)
            return self._programs[key]

    def shapes(self, *arguments: Any, **static: Any) -> Any:
        """The shapes of what the function returns for these arguments, which are only traced."""
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            return self.function.eval_shape(*arguments, **static)

    def is_kept(self, *arguments: Any, **static: Any) -> bool:
        """Whether the program for these arguments is in memory or in the folder."""
        key = self._key(arguments, static)
        return key in self._programs or self._cache.has_file(self, key)

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """The function of these arguments."""
        future = self.prepare(*arguments, **static)
        if not future.done():
            began, counts = time.perf_counter(), self._cache.counts
            counts.waiting.add(threading.get_ident())
            try:
                future.result()
            finally:
                counts.waiting.discard(threading.get_ident())
            waited = time.perf_counter() - began
            counts.waited_seconds += waited
            _OF_THREAD.waited = waited_by_this_thread() + waited
        return future.result()(*arguments)

    def _key(self, arguments: Any, static: dict[str, Any]) -> tuple:
        leaves, tree = jax.tree.flatten(arguments)
        return (tree, *map(signature, leaves), *sorted(static.items()))

    def file_name(self, key: Any) -> str:
        """The name of the file that holds the program for a signature."""
        tree, *rest = key
        return f"{self._prefix}-{digest(str(tree), *rest)}{SUFFIX}"

    def is_known(self) -> bool:
        """Whether the folder has this program for any signature."""
        return self._cache.has_any(self._prefix)

    @functools.cached_property
    def _prefix(self) -> str:
        mesh = None if self._mesh is None else (self._mesh.shape, self._mesh.device_ids.tolist())
        facts = (self.name, self._description, str(mesh), self.autotune)
        return digest(source_digest(), *environment(), *facts)

    def compiled(self, arguments: Any, static: dict[str, Any]) -> jax.stages.Compiled:
        """The program, traced, lowered and compiled now."""
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            lowered = self.function.lower(*arguments, **static)
        return compile_for(jax.default_backend(), lowered.compile, self.name, self.autotune)


class ProgramCache:
    """Programs in memory and, with ``folder``, in files that later runs read.

    Args:
      folder: made when the first program is stored; None keeps nothing between runs.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        self.folder = None if folder is None else pathlib.Path(folder)
        self.counts = Counts()
        self._pool = ThreadPoolExecutor(COMPILERS, thread_name_prefix="compile")
        self._pool_of_plain = ThreadPoolExecutor(COMPILERS, thread_name_prefix="compile plain")
        self._preloaded: dict[str, Future] = {}
        self._recent: recent_programs.RecentPrograms | None = None
        self._used: dict[str, None] = {}
        self._warned = False

    def program(
        self,
        name: str,
        function: Callable,
        description: str = "",
        mesh: Mesh | None = None,
        autotune: bool = True,
    ) -> Program:
        """A program of this cache.

        Args:
          name: for messages, and a part of the key.
          function: as ``jax.jit`` returns it.
          description: every fact that the function closes over and that its arguments do not show
            (sizes of a network, compute dtype).
          mesh: the current mesh while the function is traced.
          autotune: whether the compiler searches for the fastest kernels; on GPUs alone.
        """
        return Program(self, name, function, description, mesh, autotune)

    def has_file(self, program: Program, key: Any) -> bool:
        """Whether the folder has the program for a signature."""
        return self.folder is not None and self._exists(self.folder / program.file_name(key))

    def has_any(self, prefix: str) -> bool:
        """Whether the folder has a file whose name begins so."""
        return self.folder is not None and any(self.folder.glob(f"{prefix}-*{SUFFIX}"))

    def preload(self, *facts: Any) -> None:
        """Begins to load the programs that the last run with these facts used."""
        if self.folder is None or self._recent is not None:
            return
        self._recent = recent_programs.RecentPrograms(self._list_of(facts))
        for file in self._recent:
            self._preloaded[file] = self._pool.submit(self._load, self.folder / file)

    def has_list(self, *facts: Any) -> bool:
        """Whether a run with these facts has noted its programs."""
        return self.folder is not None and self._exists(self._list_of(facts))

    def _exists(self, path: pathlib.Path) -> bool:
        try:
            return path.exists()
        except OSError as error:
            self._warn(error)
            return False

    def _list_of(self, facts: tuple[Any, ...]) -> pathlib.Path:
        name = digest(source_digest(), *environment(), *facts) + recent_programs.SUFFIX
        return self.folder / name

    def remember(self) -> None:
        """Notes the programs used so far for a later run with the facts of ``preload``."""
        if self._recent is not None:
            self._recent.write(self._used)

    def cancel(self) -> None:
        """Drops the programs that have not begun to be loaded or compiled."""
        for pool in (self._pool, self._pool_of_plain):
            pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, program: Program, key: Any, arguments: Any, static: dict) -> Future:
        """Loads or compiles a program in a thread of the pool."""
        pool = self._pool if program.autotune else self._pool_of_plain
        return pool.submit(self._get, program, key, arguments, static)

    def _get(self, program: Program, key: Any, arguments: Any, static: dict) -> Callable:
        path = None if self.folder is None else self.folder / program.file_name(key)
        if path is not None:
            self._used[path.name] = None
            # Whatever is preloaded was submitted before, and has begun: the pool takes it in order.
            preloaded = self._preloaded.pop(path.name, None)
            loaded = self._load(path) if preloaded is None else preloaded.result()
            if loaded is not None:
                return loaded
        began, earlier = time.perf_counter(), _compiled_by_this_thread()
        compiled = program.compiled(arguments, static)
        self.counts.compiled += 1
        self.counts.compile_seconds += time.perf_counter() - began
        if path is not None and _compiled_by_this_thread() > earlier:
            self._store(path, compiled)
        return compiled

    def _load(self, path: pathlib.Path) -> Callable | None:
        began = time.perf_counter()
        try:
            owner = path.stat().st_uid
        except FileNotFoundError:
            return None
        except OSError as error:  # the folder is a file, or must not be searched
            self._warn(error)
            return None
        try:
            if hasattr(os, "getuid") and owner != os.getuid():
                return None
            ids, *serialized = pickle.loads(path.read_bytes())
            by_id = {device.id: device for device in jax.devices()}
            loaded = serialize_executable.deserialize_and_load(
                *serialized, execution_devices=[by_id[i] for i in ids]
            )
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, EOFError, LookupError, AttributeError, ImportError,
                pickle.UnpicklingError, jax.errors.JaxRuntimeError) as error:  # fmt: skip
            _LOG.warning("%s cannot be used and is compiled again (%s)", path, error)
            return None
        self.counts.loaded += 1
        self.counts.load_seconds += time.perf_counter() - began
        return loaded

    def _store(self, path: pathlib.Path, compiled: jax.stages.Compiled) -> None:
        try:
            ids = [device.id for device in _devices_of(compiled)]
            content = pickle.dumps((ids, *serialize_executable.serialize(compiled)))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with new_file(path, overwrite=True) as temporary:
                temporary.write_bytes(content)
        except (OSError, ValueError, TypeError, jax.errors.JaxRuntimeError) as error:
            self.counts.not_stored += 1
            self._warn(error)
            return
        try:
            self._trim(path)
        except OSError as error:
            _LOG.warning("old programs are not removed from %s: %s", self.folder, error)

    def _warn(self, error: Exception) -> None:
        """Says once that the folder cannot be used."""
        if not self._warned:
            _LOG.warning("compiled programs are not kept in %s: %s", self.folder, error)
        self._warned = True

    def _trim(self, newest: pathlib.Path) -> None:
        remove_leftovers(newest.parent)
        found = newest.parent.glob("*" + SUFFIX)
        files = [(file, file.stat()) for file in found if not is_temporary(file)]
        files.sort(key=lambda item: item[1].st_mtime, reverse=True)
        held = 0
        for file, facts in files:
            held += facts.st_size
            if held > LIMIT_BYTES and file != newest:
                file.unlink(missing_ok=True)
