"""Runs a program on one faulty input and judges how it ended."""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 60.0
"""Of a run on an idle machine."""
LIMIT_BYTES = 2 * 2**30
FAULTS = ("traceback", "crash", "hang", "partial output", "wrong numbers", "memory", "silence")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
      status: its exit status; -n: ended by signal n.
      stdout, stderr: what it said.
      seconds: that it took.
      memory: the largest resident memory, in bytes.
      killed: whether the harness killed it on purpose.
      hung: whether it was killed because it passed the limit of time.
      left: the files on its own disk and their sizes, where it had one.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    memory: int
    killed: bool = False
    hung: bool = False
    left: dict[str, int] | None = None

    @property
    def faults(self) -> list[str]:
        """What no input may bring about, whatever the program and the output."""
        said = self.stdout + self.stderr
        found = {
            "traceback": "Traceback (most recent call last)" in said,
            "crash": self.status not in (0, 1) and not (self.killed or self.hung),
            "hang": self.hung,
            "memory": self.memory > LIMIT_BYTES,
            "silence": self.status == 1 and not self.stderr.strip(),
        }
        return [name for name, is_so in found.items() if is_so]

    @property
    def line(self) -> str:
        """The last line on stderr: what the user is told."""
        return (self.stderr.strip().splitlines() or [""])[-1]


class Programs(contextlib.AbstractContextManager):
    """A process that has imported the programs and runs them.

    Args:
      scratch: a folder for what they say, and for programs that JAX compiled.
      together: whether all runs share the process, which is started anew when it dies; else each
        has a forked one.
    """

    def __init__(self, scratch: pathlib.Path, together: bool = False):
        scratch.mkdir(exist_ok=True)
        self._scratch, self._together = scratch, together
        self._start()

    def _start(self) -> None:
        without = ("XLA_FLAGS", "JAX_PLATFORMS")
        env = {name: value for name, value in os.environ.items() if name not in without}
        env |= {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip
        env.setdefault("JAX_COMPILATION_CACHE_DIR", str(self._scratch / "compiled"))
        script = pathlib.Path(__file__).with_name("fork_server.py")
        self._process = subprocess.Popen(
            [sys.executable, script, *(["together"] if self._together else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT,
        )  # fmt: skip
        self.threads = self._answer(600)["threads"]

    def _answer(self, limit: float) -> dict:
        """What the process answers; if it is hung or dead, it is replaced by a new one."""
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self._process.kill()
        status = self._process.wait()
        self._start()
        return {
            "exit": status if ready else -signal.SIGKILL, "seconds": limit, "memory": 0,
            "killed": False, "hung": not ready,
        }  # fmt: skip

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(
        self,
        program: str,
        *arguments: object,
        folder: pathlib.Path,
        disk: int = 0,
        kill_after: float = 0.0,
        limit: float = 0.0,
    ) -> Outcome:
        """Runs ``program`` in ``folder``.

        Args:
          program: infer, train, convert, export or data.
          arguments: of its command line.
          folder: where it runs, and where its outputs are expected.
          disk: kilobytes of a file system of its own on ``folder``; 0: none. Not ``together``.
          kill_after: seconds until it is killed by SIGKILL; 0: it is not. Not ``together``.
          limit: seconds until it counts as hung; 0: `patience`.
        """
        limit = limit or patience()
        names = {name: str(self._scratch / name) for name in ("stdout", "stderr", "left")}
        pathlib.Path(names["left"]).unlink(missing_ok=True)
        request = names | {
            "program": program, "argv": [program, *map(str, arguments)], "folder": str(folder),
            "disk": disk, "kill_after": kill_after, "limit": limit,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer(limit if self._together else 2 * limit)
        said = [
            pathlib.Path(names[name]).read_text(errors="replace") for name in ("stdout", "stderr")
        ]
        return Outcome(
            answer["exit"], *said, answer["seconds"], answer["memory"] * 1024, answer["killed"],
            answer["hung"], answer.get("files"),
        )  # fmt: skip


@dataclasses.dataclass
class Row:
    """The cases of one kind: how many there were, how they ended, and what went wrong."""

    injected: str
    program: str
    cases: int = 0
    ended: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    slowest: float = 0.0
    memory: int = 0

    def add_run(self, outcome: Outcome) -> None:
        """Notes what a run took."""
        self.slowest = max(self.slowest, outcome.seconds)
        self.memory = max(self.memory, outcome.memory)

    def add(
        self,
        case: str,
        how: str,
        outcome: Outcome,
        faults: Iterable[str] = (),
        of_all: bool = True,
    ) -> None:
        """Counts a case.

        Args:
          case: its number and what was done.
          how: it ended.
          outcome: of its run.
          faults: what was found in its outputs.
          of_all: whether the faults of the run are its own; else the run had several cases.
        """
        self.cases += 1
        self.ended[how] += 1
        if of_all:
            self.add_run(outcome)
        for fault in [*(outcome.faults if of_all else []), *faults]:
            self.counts[fault.split(":")[0]] += 1
            self.wrong.append(f"{self.injected}, {case}: {fault}; {outcome.line}")

    def __str__(self) -> str:
        ended = ", ".join(f"{count} {how}" for how, count in self.ended.most_common())
        faults = ", ".join(f"{count} {what}" for what, count in self.counts.items()) or "none"
        return (
            f"| {self.injected} | `{self.program}` | {self.cases} | {ended} | {faults} | "
            f"{self.slowest:.1f} s | {self.memory / 2**30:.2f} GiB |"
        )


HEADER = (
    "| injected | program | cases | ended | faults | longest | largest memory |\n"
    "|---|---|---|---|---|---|---|"
)


def patience() -> float:
    """Seconds until a run counts as hung: `LIMIT_SECONDS`, or more in proportion to the load."""
    return LIMIT_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def files_below(folder: pathlib.Path) -> list[str]:
    """The files below a folder, by their relative paths."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@functools.cache
def disk_refusal() -> str:
    """Why no small file system can be mounted here; "" if one can."""
    code = (
        "import sys, tempfile; from faults.fork_server import mount_disk; "
        "mount_disk(tempfile.mkdtemp(), 64)"
    )
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    tried = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""


def signals_of(status: int) -> str:
    """How a status reads: "exit 1" or the name of a signal."""
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


def report(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown, and below it every case that went wrong."""
    wrong = [f"- {line}" for row in rows for line in row.wrong]
    return "\n".join([HEADER, *map(str, rows), "", *wrong])
