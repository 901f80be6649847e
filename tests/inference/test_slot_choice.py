"""Sparse programs are made when the blocks that they spare have paid for them."""

from skipsr_jax.inference import bucket_choice
from skipsr_jax.inference.slot_choice import SlotChoice


def choose(choice, wanted, kept=False, blocks=100):
    return choice.choose(wanted, blocks, 10, lambda slots: kept)


def test_a_short_run_is_dense_and_a_long_one_becomes_sparse(monkeypatch):
    monkeypatch.setattr(bucket_choice, "HOST_FLOPS", 1e12)
    choice = SlotChoice(19e9, "cpu")
    got = [choose(choice, 40) for _ in range(40)]
    assert got[0] == 100 and got[-1] == 40
    assert choose(choice, 38) == 40  # which is there
    assert choose(choice, 38, blocks=110) == 110  # of another size of frame


def test_kept_programs_are_loaded_at_once(monkeypatch):
    monkeypatch.setattr(bucket_choice, "HOST_FLOPS", 1e11)
    assert choose(SlotChoice(9.3e9, "cpu"), 40, kept=True) == 40
