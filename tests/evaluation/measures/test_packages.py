"""Metrics of other projects, through stand-ins for those projects."""

import sys
import types

import numpy as np
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.measures import packages
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.measures.weights import Weights


def test_pyiqa_takes_pictures_of_eight_bits(tmp_path, monkeypatch):
    (tmp_path / "pyiqa.py").write_text(
        "import numpy as np\n"
        "def create_metric(name):\n"
        "    if name == 'musiq': raise OSError('no route\\nto the hub')\n"
        "    return lambda image: np.asarray(image).mean() + len(name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    score = packages.pyiqa_metric("brisque")
    assert score(Picture(np.full((4, 5, 3), 65535, np.uint16)), None) == 255 + 7
    with pytest.raises(UserError, match="pyiqa cannot make it: no route to the hub"):
        packages.pyiqa_metric("musiq")


def test_without_pyiqa_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(packages, "importlib", types.SimpleNamespace(
        util=types.SimpleNamespace(find_spec=lambda name: None)))  # fmt: skip
    with pytest.raises(UserError, match=r"needs pyiqa \(pip install pyiqa: PolyForm"):
        packages.pyiqa_metric("musiq")


def test_dover_runs_its_program(tmp_path):
    with pytest.raises(UserError, match=r"clone of github.com/VQAssessment/DOVER as DOVER/"):
        packages.find_dover(Weights(tmp_path))
    clone = tmp_path / "DOVER"
    clone.mkdir()
    (clone / "evaluate_one_video.py").write_text(
        "import sys\n"
        "assert sys.argv[1:3] == ['-f', '-v'], sys.argv\n"
        "if 'bad' in sys.argv[3]: sys.exit('no decord')\n"
        "print('0.31')\nprint('Normalized fused overall score (scale in [0,1]):', 0.5769)\n"
    )
    folder = packages.find_dover(Weights(tmp_path))
    assert packages.Dover(folder, tmp_path / "a.mp4").value() == 0.5769
    with pytest.raises(UserError, match=r"DOVER failed on .*bad.mp4: no decord"):
        packages.Dover(folder, tmp_path / "bad.mp4").value()
    with pytest.raises(Undefined, match="video files alone"):
        packages.Dover(folder, tmp_path).value()
