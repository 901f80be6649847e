"""Injects faults into the programs and prints what came out, as the table of docs/reliability.md.

    python tests/faults/run.py
    python tests/faults/run.py --mutations=300 --disks=10 --kills=20
    python tests/faults/run.py --only=mp4,disk --mutations=30

Exit status 1 when a case went wrong; each is named below the table.
"""

import argparse
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from faults import campaigns, interruptions  # noqa: E402
from faults.harness import Programs, Row, disk_refusal, report  # noqa: E402


def main() -> int:
    """Runs the campaigns that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=300, help="of each kind of file")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--disks", type=int, default=10, help="sizes of full disks")
    parser.add_argument("--kills", type=int, default=20, help="moments of kill -9")
    parser.add_argument("--only", default="", help="kinds of files, disk, kill: a,b,c")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [*campaigns.MUTATED, "disk", "kill"]
    rows: list[Row] = []

    def done(row: Row) -> None:
        print(report([row]), file=sys.stderr, flush=True)
        rows.append(row)

    with tempfile.TemporaryDirectory(prefix="skipsr_faults_") as folder:
        work = pathlib.Path(folder)
        kinds = [kind for kind in wanted if kind in campaigns.MUTATED]
        numbers = range(options.first, options.first + options.mutations)
        with Programs(work / "said_together", together=True) as programs:
            for kind in kinds:
                campaign = campaigns.MUTATED[kind]
                done(campaign(programs, campaigns.emptied(work / kind), kind, numbers))
        with Programs(work / "said") as programs:
            for name in interruptions.DISK_PROGRAMS if "disk" in wanted else ():
                if disk_refusal():
                    print(f"no full disks: {disk_refusal()}", file=sys.stderr)
                    break
                folder = work / "disk" / name
                done(interruptions.full_disks(programs, folder, name, options.disks))
            for name in interruptions.KILLED_PROGRAMS if "kill" in wanted else ():
                folder = work / "kill" / name
                done(interruptions.kills(programs, folder, name, options.kills))
    print(report(rows))
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
