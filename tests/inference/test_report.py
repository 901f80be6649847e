"""How a run went: the sums, the lines, and why a faster attention did not run."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.inference.coding_plan import DENSE, SKIP, CodingPlan
from skipsr_jax.inference.program_cache import ProgramCache
from skipsr_jax.inference.report import Report
from skipsr_jax.tokens.blocks import plan_blocks
from skipsr_jax.tokens.buckets import Bucket

REFUSED = {"fast": "it needs a GPU", "faster": "it needs a GPU", "other": "it takes bfloat16"}


def test_the_report_adds_up():
    report = Report()
    keep = np.ones((2, 1, 4), bool)
    sparse = CodingPlan("sparse", blocks=tuple(plan_blocks(np.zeros_like(keep), 2)))
    report.chunk(keep, Bucket(64, 16), ("xla", REFUSED), {"encode": DENSE, "decode": sparse})
    report.chunk(~keep, None, None, {"encode": DENSE, "decode": SKIP})
    assert (report.skipped, report.buckets) == (0.5, {Bucket(64, 16): 1})
    assert (report.coded("encode"), report.coded("decode")) == (1.0, 6 / 16)


def test_seconds_and_progress_are_those_of_the_stages():
    seen = []
    report = Report(lambda stage, frames: seen.append((stage, frames)))
    with report.stage("write"):
        pass
    for stage in ("encode", "refine", "decode"):
        report.watch(stage, jnp.ones(3), report.now() - 1.0, 4.0)
    report.close()
    assert report.seconds["write"] > 0 == report.seconds["read"]
    assert report.seconds["encode"] >= 1 and report.seconds["refine"] < 1
    report.seconds["download"] = 9.0  # the host waits for the device, and does nothing itself
    assert list(report.busy_seconds) == ["encode", "refine", "decode", "write"]
    assert seen[0] == ("write", 0.0)
    assert sum(frames for _, frames in seen) == pytest.approx(4)


def test_what_is_waited_for_programs_is_in_no_other_stage():
    class Slow(ProgramCache):
        def _get(self, *_):
            time.sleep(0.2)
            return jnp.negative

    cache, report = Slow(), Report()
    program = cache.program("negative", jax.jit(jnp.negative))
    with report.waiting(cache.counts):
        program(np.ones(5))  # in no stage
        with report.stage("mask"):
            program(np.ones(3))
        called = report.now()
        report.watch("encode", program(np.ones(4)), called)
    report.close()
    mask, encode, programs = (report.seconds[name] for name in ("mask", "encode", "programs"))
    assert programs == cache.counts.waited_seconds > 0.5
    assert report.passed >= mask + encode + programs
    assert f"; waited for programs: {programs:.1f}" in "".join(report.lines())


@pytest.mark.parametrize(
    ("stage", "worker"), [("read", "reading"), ("refine", "the device"), ("write", "writing")]
)
def test_the_slowest_worker_bounds_the_run(stage, worker):
    report = Report()
    report.seconds |= {"decode": 2.0, "encode": 1.0} | {stage: 4.0}
    assert report.bounded_by == worker
    assert report.bound == {"reading": 4.0, "the device": 7.0, "writing": 4.0}[worker]
    assert any(f"bounded by {worker}" in line for line in report.lines())


def test_the_lines_name_the_attention_and_why_a_faster_one_was_refused():
    report = Report()
    report.mask_source, report.coder, report.products = "input", "full", "fp8"
    plans = {"encode": DENSE, "decode": SKIP}
    report.chunk(np.zeros((1, 2, 2), bool), None, None, plans)
    text = "\n".join(report.lines())
    assert "100.0 % of patches (mask: input)" in text
    assert "100.0 % encoded and 0.0 % decoded" in text
    assert "decoded by the full coder\n" in text
    assert "the transformer did not run" in text and "attention" not in text and "fp8" not in text
    report.chunk(np.ones((1, 2, 2), bool), Bucket(64, 16), ("xla", REFUSED), plans)
    report.chunk(np.ones((1, 2, 2), bool), Bucket(64, 16), ("xla", REFUSED), plans)
    lines = report.lines()
    assert (
        "attention  xla (not fast, faster: it needs a GPU; not other: it takes bfloat16)" in lines
    )
    assert "tokens     2 chunks padded to 64 tokens, 16 windows" in lines
    report.coder_products = "fp8"
    assert "the full coder, its wide convolutions in fp8" in report.lines()[1]
