"""Every array of golden case E: schedule, timesteps, shift, Euler run, guidance, condition."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion import condition, guidance, sampler, schedule, timesteps

TOLERANCE = 1e-4
# Timesteps run to 1000, where float32 numbers are 6e-5 apart and the shift has a few roundings.
TIMESTEP_TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def case(shared):
    return json.loads((shared / "golden" / "E_diffusion" / "case.json").read_text())


@pytest.fixture(scope="module")
def golden(shared):
    arrays = np.load(shared / "golden" / "E_diffusion" / "diffusion.npz")
    return {name: arrays[name] for name in arrays.files}


def close(got, want, atol=TOLERANCE):
    assert np.shape(got) == want.shape
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=atol)


def matching(golden, pattern):
    """(array name, regex match) for every array whose whole name matches; at least one."""
    found = [(name, m) for name in golden if (m := re.fullmatch(pattern, name))]
    assert found, f"no array matches {pattern}"
    return found


def test_schedule(golden):
    t, clean, noise, noisy, v = (
        jnp.asarray(golden[f"fw_{k}"]) for k in ("t", "x0", "xT", "xt", "v")
    )
    close(schedule.add_noise(clean, noise, t), golden["fw_xt"])
    close(schedule.velocity(clean, noise), golden["fw_v_target"])
    close(schedule.clean_from_velocity(v, noisy, t), golden["fw_pred_x0"])
    close(schedule.clean_from_velocity(v, noisy, t) + v, golden["fw_pred_xT"])


def test_terminal_timestep(case):
    assert case["T"] == schedule.TERMINAL


def test_trailing_timesteps(golden):
    for name, match in matching(golden, r"trailing_(\d+)"):
        close(timesteps.uniform_trailing(int(match[1])), golden[name], TIMESTEP_TOLERANCE)


def test_trailing_timesteps_have_as_many_entries_as_steps(case):
    for steps, official in case["steps_whose_schedule_has_another_length"]:
        assert steps != official
        assert timesteps.uniform_trailing(steps).shape == (steps,)


def test_shift_by_resolution(golden):
    factors = [timesteps.shift_factor(tuple(s.tolist())) for s in golden["shift_latents"]]
    # The golden factors were recovered in float32 from the image of t = 500.
    np.testing.assert_allclose(factors, golden["shift_factor_from_half"], rtol=1e-5)
    for name, match in matching(golden, r"(trailing_\d+|train_t)_shifted"):
        for factor, row in zip(factors, golden[name], strict=True):
            got = timesteps.shift_timestep(jnp.asarray(golden[match[1]]), factor)
            close(got, row, TIMESTEP_TOLERANCE)


def test_training_timesteps_at_quantiles(golden):
    normal = jax.scipy.special.ndtri(jnp.asarray(golden["train_q"]))
    close(timesteps.logit_normal_timestep(normal), golden["train_t"], 1e-2)


def test_euler_run(golden, case):
    assert case["toy"] == "pred = sin(x_t) + 0.5 * c * (t / 1000) - 0.25 * x_t"
    c = jnp.asarray(golden["traj_c"])
    states, times, predictions = [], [], []

    def toy(x, t):
        states.append(x)
        times.append(t)
        predictions.append(jnp.sin(x) + 0.5 * c * (t / 1000) - 0.25 * x)
        return predictions[-1]

    steps = timesteps.uniform_trailing(len(golden["traj_t"]))
    out = sampler.euler_sample(toy, jnp.asarray(golden["traj_x"]), steps)
    close(jnp.stack(times), golden["traj_t"])
    close(jnp.stack(states), golden["traj_states"])
    close(jnp.stack(predictions), golden["traj_preds"])
    close(out, golden["traj_out"])


def test_guidance(golden, case):
    positive, negative = (jnp.asarray(golden[f"cfg_{name}"]) for name in ("pos", "neg"))
    for i, (scale, rescale) in enumerate(case["cfg_scale_rescale"]):
        both = case[f"cfg_{i}_calls"] == ["pos", "neg"]
        assert both == (scale != 1)  # at scale 1 callers run the positive prompt alone
        got = guidance.apply_guidance(positive, negative, scale, rescale) if both else positive
        close(got, golden[f"cfg_{i}"])


def test_condition_channels(golden):
    for name, match in matching(golden, r"(cond_[a-z]+)_blur"):
        close(condition.condition(jnp.asarray(golden[name])), golden[match[1]])


def test_condition_noise_in_both_readings_of_the_shift(golden):
    for name, match in matching(golden, r"(condnoise_\d+)_blur"):
        latent, noise = jnp.asarray(golden[name]), jnp.asarray(golden[f"{match[1]}_aug"])
        for reading, shape in (("thw", None), ("official_hwc", latent.shape[1:])):
            t = condition.condition_timestep(0.1, shape or latent.shape[:3])
            close(t[None], golden[f"{match[1]}_t_{reading}"])
            got = condition.add_condition_noise(latent, noise, 0.1, shape)
            close(got, golden[f"{match[1]}_out_{reading}"])
