"""What is held counts as written by somebody, until its holder closes it or ends."""

import pytest

from skipsr_jax.holding import Hold, is_abandoned, machine


def test_what_is_held_is_not_abandoned(tmp_path):
    path = tmp_path / "file"
    with Hold(path):
        assert not is_abandoned(path, machine())
        with pytest.raises(BlockingIOError):
            Hold(path)
    assert is_abandoned(path, machine())
    with Hold(tmp_path) as held:
        assert not is_abandoned(tmp_path, machine())
        held.close()
        assert is_abandoned(tmp_path, machine())


def test_what_is_gone_is_not_abandoned(tmp_path):
    assert not is_abandoned(tmp_path / "none", machine())
