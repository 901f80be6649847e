"""Runs the programs' entry functions: each run in a forked child, or all of them in one process.

Started by `harness.Programs`. It imports the programs once; a request on stdin, one line of JSON,
runs one of them, and the answer is one line of JSON on stdout.

A forked child has a limit of time and a disk of its own if that is asked for, and it ends as the
program does: exit handlers run and threads are joined, so that a hang at the end is seen. For that
this process starts no thread and no JAX backend before a fork. With the argument ``together`` runs
share one process and what it has compiled, which is ten times as fast.
"""

import ctypes
import importlib
import json
import os
import pathlib
import signal
import sys
import time
import traceback
import warnings

PROGRAMS = {
    "infer": "skipsr_jax.cli.infer",
    "train": "skipsr_jax.cli.train",
    "convert": "skipsr_jax.checkpoints.convert",
    "export": "skipsr_jax.checkpoints.export",
    "data": "skipsr_jax.data.build",
}
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC_PRIVATE = 0x44000
_POLL = 0.02  # seconds


def mount_disk(folder: str, kilobytes: int) -> None:
    """Mounts a file system of that size on ``folder`` for this process and its children alone.

    Raises OSError where the system allows it neither to root nor in a namespace of its own.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result:
            raise OSError(ctypes.get_errno(), what)

    if os.geteuid():
        user, group = os.getuid(), os.getgid()
        check(libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER), "unshare")
        pathlib.Path("/proc/self/setgroups").write_text("deny")
        pathlib.Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        pathlib.Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    else:
        check(libc.unshare(_CLONE_NEWNS), "unshare")
    check(libc.mount(None, b"/", None, _MS_REC_PRIVATE, None), "mount /")
    options = f"size={kilobytes}k,mode=755".encode()
    check(libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, options), "mount tmpfs")


def listing(folder: str) -> dict[str, int]:
    """The files below a folder by their relative paths, with their sizes."""
    root = pathlib.Path(folder)
    return {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _child(request: dict) -> None:
    """The forked process; ends by SystemExit, as the program would."""
    os.setsid()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if request["disk"]:
        _run_on_disk(request)
    os.chdir(request["folder"])
    sys.argv = request["argv"]
    module = importlib.import_module(PROGRAMS[request["program"]])
    raise SystemExit(module.main(request["argv"]))


def _run_on_disk(request: dict) -> None:
    """Forks once more: this process sees the disk that the other one leaves behind."""
    mount_disk(request["folder"], request["disk"])
    pid = os.fork()
    if pid == 0:
        return
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    _, status, used = os.wait4(pid, 0)
    pathlib.Path(request["left"]).write_text(
        json.dumps(
            {"files": listing(request["folder"]), "memory": used.ru_maxrss,
             "exit": os.waitstatus_to_exitcode(status)}
        )
    )  # fmt: skip
    os._exit(0)


def run(request: dict) -> dict:
    """Runs a program as the request says; returns how it ended."""
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            _child(request)
        except SystemExit:
            raise
        except BaseException:
            traceback.print_exc()
            raise SystemExit(1) from None
    killed = hung = False
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        passed = time.monotonic() - began
        if request["kill_after"] and passed > request["kill_after"] and not killed:
            killed = True
            os.killpg(pid, signal.SIGKILL)
        elif passed > request["limit"] and not hung:
            hung = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(_POLL)
    answer = {
        "exit": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began,
        "memory": used.ru_maxrss, "killed": killed, "hung": hung,
    }  # fmt: skip
    if request["disk"] and os.path.exists(request["left"]):
        answer |= json.loads(pathlib.Path(request["left"]).read_text())
    return answer


def run_here(request: dict) -> dict:
    """Runs a program in this process; returns how it ended."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(request["folder"])
    began = time.monotonic()
    module = importlib.import_module(PROGRAMS[request["program"]])
    try:
        status = module.main(request["argv"])
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    seconds = time.monotonic() - began
    sys.stdout.flush()
    sys.stderr.flush()
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"exit": status, "seconds": seconds, "memory": peak, "killed": False, "hung": False}


def main() -> None:
    """Serves requests until stdin ends."""
    for module in PROGRAMS.values():
        importlib.import_module(module)
    together = sys.argv[1:] == ["together"]
    if together:
        warnings.simplefilter("always")
    answers = os.fdopen(os.dup(1), "w")
    threads = len(os.listdir("/proc/self/task"))
    print(json.dumps({"ready": os.getpid(), "threads": threads}), file=answers, flush=True)
    for line in sys.stdin:
        answer = json.dumps((run_here if together else run)(json.loads(line)))
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
