"""Which steps are traced."""

import jax
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.training.profile import ProfileWindow


def test_a_window_is_traced_and_others_are_not(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: seen.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append("stop"))
    for steps, stop in (("2:4", 6), ("2:9", 4), ("", 6)):
        window = ProfileWindow(steps, tmp_path)
        for step in range(stop):
            window.before(step)
            seen.append(step)
            window.after(step, ())
        window.close()  # a run may end inside the window
        seen.append("end")
    assert seen == [
        *(0, 1, "start", 2, 3, "stop", 4, 5, "end"),
        *(0, 1, "start", 2, 3, "stop", "end"),
        *(0, 1, 2, 3, 4, 5, "end"),
    ]


@pytest.mark.parametrize("steps", ["10", "5:5", "15:10", "a:b", "-1:3", "1:2:3"])
def test_other_words_are_refused(steps, tmp_path):
    with pytest.raises(UserError, match="--profile_steps"):
        ProfileWindow(steps, tmp_path)
