# ruff: noqa: E501  (the compiler writes long lines)
"""Counting what a compiled program moves, on a small program in the compiler's own notation."""

import math

import pytest

from benchmarks.hlo import Operation, Traffic, moved, operations, received
from benchmarks.hlo_table import memory_table

PROGRAM = """
HloModule jit_step, is_scheduled=true

%fused_start (p0.1: bf16[8,4]) -> (bf16[8,4], bf16[8,16]) {
  %p0.1 = bf16[8,4]{1,0} parameter(0)
  %all-gather.1 = bf16[8,16]{1,0} all-gather(%p0.1), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={1}
  ROOT %start = (bf16[8,4]{1,0}, bf16[8,16]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p0.2: bf16[8,4]) -> bf16[8,16] {
  %p0.2 = bf16[8,4]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,16]{1,0} all-gather(%p0.2), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={1}
}

%fused_done (p0.3: bf16[8,4]) -> bf16[8,16] {
  %p0.3 = bf16[8,4]{1,0} parameter(0)
  %all-gather.3 = bf16[8,16]{1,0} all-gather(%p0.3), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={1}
  ROOT %done = bf16[8,16]{1,0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.5 (p0.5: f32[64]) -> f32[8] {
  %p0.5 = f32[64]{0} parameter(0)
  %all-reduce.5 = f32[64]{0} all-reduce(%p0.5), channel_id=9, replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %slice.5 = f32[8]{0} dynamic-slice(%all-reduce.5), dynamic_slice_sizes={8}
}

%take (p0.6: f32[10,32], p1.6: s32[]) -> f32[1,32] {
  %p0.6 = f32[10,32]{1,0} parameter(0)
  %p1.6 = s32[] parameter(1)
  ROOT %slice.6 = f32[1,32]{1,0} dynamic-slice(%p0.6, %p1.6), dynamic_slice_sizes={1,32}
}

%condition (p.7: (s32[], f32[10,32])) -> pred[] {
  %p.7 = (s32[], f32[10,32]{1,0}) parameter(0)
  %bound = s32[] constant(10)
  %i.7 = s32[] get-tuple-element(%p.7), index=0
  ROOT %lt = pred[] compare(%i.7, %bound), direction=LT
}

%body (p.8: (s32[], f32[10,32])) -> (s32[], f32[10,32]) {
  %p.8 = (s32[], f32[10,32]{1,0}) parameter(0)
  %i.8 = s32[]{:T(128)S(6)} get-tuple-element(%p.8), index=0
  %stack = f32[10,32]{1,0} get-tuple-element(%p.8), index=1
  %layer = f32[1,32]{1,0:T(8,128)S(1)} fusion(%stack, %i.8), kind=kLoop, calls=%take
  %to = f32[1,32]{1,0:T(8,128)S(1)} all-to-all(%layer), channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={1}
  %back = f32[1,32]{1,0:T(8,128)S(1)} all-to-all(%to), channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={1}
  ROOT %next = (s32[], f32[10,32]{1,0}) tuple(%i.8, %stack)
}

%open_condition (p.9: (s32[], s32[])) -> pred[] {
  %p.9 = (s32[], s32[]) parameter(0)
  %i.9 = s32[] get-tuple-element(%p.9), index=0
  %n.9 = s32[] get-tuple-element(%p.9), index=1
  ROOT %lt.9 = pred[] compare(%i.9, %n.9), direction=LT
}

%open_body (p.10: (s32[], s32[])) -> (s32[], s32[]) {
  ROOT %p.10 = (s32[], s32[]) parameter(0)
}

ENTRY %main (a: bf16[8,4], b: f32[64], c: (s32[], f32[10,32]), d: (s32[], s32[])) -> f32[8] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = f32[64]{0} parameter(1)
  %c = (s32[], f32[10,32]{1,0}) parameter(2)
  %d = (s32[], s32[]) parameter(3)
  %going = (bf16[8,4]{1,0}, bf16[8,16]{1,0}) fusion(%a), kind=kCustom, calls=%fused_start
  %meanwhile = bf16[8,16]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.2
  %there = bf16[8,16]{1,0} fusion(%a), kind=kCustom, calls=%fused_done
  %loop = (s32[], f32[10,32]{1,0}) while(%c), condition=%condition, body=%body
  %open = (s32[], s32[]) while(%d), condition=%open_condition, body=%open_body
  %sent = (bf16[8,4]{1,0}, bf16[8,4]{1,0}) collective-permute-start(%a), channel_id=3, source_target_pairs={{0,1}}
  %came = bf16[8,4]{1,0} collective-permute-done(%sent)
  %sent.2 = (bf16[8,4]{1,0}, bf16[8,4]{1,0}) collective-permute-start(%came), channel_id=4, source_target_pairs={{0,1}}
  %work = bf16[8,4]{1,0} copy(%a)
  %came.2 = bf16[8,4]{1,0} collective-permute-done(%sent.2)
  ROOT %sum = f32[8]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.5
}
"""


@pytest.fixture(scope="module")
def found():
    return moved(PROGRAM, devices=8)


def test_a_collective_in_a_loop_counts_as_often_as_it_turns(found):
    assert found.collectives["all-to-all"] == Traffic(20, 20 * 128 / 2, 0.0)


def test_an_asynchronous_collective_counts_once_and_is_overlapped(found):
    size = 8 * 16 * 2 * 3 / 4
    assert found.collectives["all-gather"] == Traffic(1, size, size)


def test_what_is_waited_for_at_once_is_not_overlapped(found):
    assert found.collectives["collective-permute"] == Traffic(2, 2 * 64, 64)


def test_a_sum_that_is_sliced_at_once_is_a_reduce_scatter(found):
    assert found.collectives["reduce-scatter"] == Traffic(1, 8 * 4 * 7, 0.0)
    assert "all-reduce" not in found.collectives


def test_a_loop_without_a_known_end_is_named(found):
    assert found.open_loops == ("open",)


def test_waiting_and_overlapped_bytes_add_up(found):
    total = sum(traffic.bytes for traffic in found.collectives.values())
    assert math.isclose(found.waited_for + found.overlapped, total)


def test_only_the_slice_of_a_stack_is_read_and_fast_memory_is_free(found):
    loop = 10 * 32 * 4  # a row of the stack each time
    started = (8 * 4 + 8 * 4 + 8 * 16) * 2
    gathered = 2 * (8 * 4 + 8 * 16) * 2
    summed = 64 * 4 + 8 * 4
    sent_and_copied = (2 + 1) * 2 * 64  # a start writes its result, not its operand again
    assert found.hbm_bytes == loop + started + gathered + summed + sent_and_copied


def test_operations_add_up_to_the_traffic_and_name_their_source():
    text = PROGRAM.replace("copy(%a)", 'copy(%a), metadata={op_name="jit(step)/work/copy"}')
    found = operations(text, devices=8)
    assert sum(one.bytes for one in found) == moved(text, devices=8).hbm_bytes
    (copy,) = (one for one in found if one.kind == "copy")
    assert copy == Operation("copy", "bf16[8,4]{1,0}", "jit(step)/work/copy", 1, 2 * 64)
    (layer,) = (one for one in found if one.runs == 10)
    assert layer.bytes == 10 * 32 * 4


def test_the_table_has_the_heaviest_operations_and_the_rest():
    twice = [Operation("copy", "f32[8]{0}", "a/copy", 2, 3e9)] * 2
    lines = memory_table([Operation("dot", "f32[1]", "a/dot", 1, 4e9), *twice], top=1).splitlines()
    assert lines[2] == "| 6.00 | 60.0 | 4 | copy | f32[8]{0} | a/copy |"
    assert lines[3] == "| 4.00 | 40.0 | | 1 others | | |"


def test_what_goes_between_slices_is_counted_where_it_is_sent():
    """Of an all-reduce over three slices a chip receives two thirds of the array, twice."""
    program = """
ENTRY %main (a: f32[100]) -> f32[100] {
  %a = f32[100]{0} parameter(0)
  %token = token[] after-all()
  %send = (f32[100]{0:T(128)}, u32[], token[]) send(%a, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2,3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[100]{0:T(128)}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2
  %come = (f32[100]{0:T(128)}, token[]) recv-done(%recv), channel_id=1
  ROOT %sum = f32[100]{0} get-tuple-element(%come), index=0
}
"""
    found = moved(program, devices=12)
    assert found.between_slices == Traffic(1, pytest.approx(400 * 2 * 2 / 3))
    assert found.collectives == {}


def test_a_copy_ahead_reads_its_slice_alone_once():
    program = """
ENTRY %main (a: bf16[100,8]) -> bf16[4,8] {
  %a = bf16[100,8]{1,0} parameter(0)
  %ahead = ((bf16[100,8]{1,0}), bf16[25,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:25], [0:8]}
  %there = bf16[25,8]{1,0:T(8,128)S(1)} slice-done(%ahead)
  %back = (bf16[25,8]{1,0}, bf16[25,8]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%there)
  %home = bf16[25,8]{1,0} copy-done(%back)
  %small = bf16[10,8]{1,0} slice(%home), slice={[0:10], [0:8]}
  ROOT %fast = bf16[4,8]{1,0:T(8,128)S(1)} slice(%home), slice={[0:4], [0:8]}
}
"""
    ahead, back, small, fast = 25 * 8 * 2, 25 * 8 * 2, 2 * 10 * 8 * 2, 4 * 8 * 2
    assert moved(program, devices=1).hbm_bytes == ahead + back + small + fast


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("all-gather", 75),
        ("reduce-scatter", 300),
        ("all-reduce", 150),
        ("all-to-all", 75),
        ("collective-permute", 100),
    ],
)
def test_bytes_received_of_a_result_of_100_among_4(kind, expected):
    assert received(kind, 100, 4) == expected
