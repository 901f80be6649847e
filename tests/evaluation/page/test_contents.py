"""What goes into a page: masks as bits, scores as JSON."""

import base64
import json

import numpy as np

from skipsr_jax.evaluation.page import contents


def test_masks_share_frames_that_are_equal_and_unpack_to_the_same():
    keep = np.random.default_rng(0).random((9, 5, 7)) > 0.5
    keep[1:5], keep[5:] = keep[1], keep[5]
    found = contents.mask_json("oracle", keep)
    assert found["starts"] == [0, 1, 5] and (found["rows"], found["columns"]) == (5, 7)
    for start, text in zip(found["starts"], found["bits"], strict=True):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[:35]
        np.testing.assert_array_equal(bits.reshape(5, 7).astype(bool), keep[start])


def test_scores_of_a_clip_are_numbers_that_json_can_hold():
    of = {"psnr": float("inf"), "lpips": float("nan"), "niqe": 5, "frames": 9, "note": "cut"}
    scores = {"results": {"a": {"mean": {"psnr": 1.5}, "clips": {"cat": of}},
                          "b": {"mean": {}, "clips": {}}}}  # fmt: skip
    found = contents.scores_of_clip(scores, "cat")
    assert found == {"a": {"psnr": "∞", "lpips": None, "niqe": 5.0}}
    json.dumps(found, allow_nan=False)
    assert contents.means_of(scores) == {"a": {"psnr": 1.5}, "b": {}}


def test_metrics_keep_their_order_and_know_which_end_is_better():
    about = {"psnr": "PSNR of RGB in dB (↑)", "lpips": "LPIPS (↓)", "crispness": "edges (→1)"}
    scores = {"results": {"a": {"mean": {"mystery": 1.0}, "clips": {}}}, "metrics": about}
    found = contents.metrics_json(scores)
    assert [(one["name"], one["direction"], one["target"]) for one in found] == [
        ("psnr", 1, None), ("lpips", -1, None), ("crispness", 0, 1.0), ("mystery", 0, None),
    ]  # fmt: skip
    assert found[1]["text"] == "LPIPS (↓)"


def test_a_mask_of_latent_frames_holds_for_1_frame_and_then_4_each():
    keep = np.arange(3)[:, None, None] == 1
    found = contents.masks_of_frames(keep)
    assert found[:, 0, 0].tolist() == [False] + [True] * 4 + [False] * 4


def test_doubtful_metrics_are_those_of_the_clip_or_of_any():
    scores = {"doubtful": {"niqe": ["small"]}}
    found = [contents.doubtful_metrics(scores, clip) for clip in ("small", "large", None)]
    assert found == [["niqe"], [], ["niqe"]] and contents.doubtful_metrics({}) == []
