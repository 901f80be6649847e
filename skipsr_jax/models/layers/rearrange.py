"""Moves pixels and frames into channels and back: layouts change, numbers do not."""

from jax import Array

from skipsr_jax.types import Float


def space_to_depth(
    x: Float[Array, "*frames h w c"], n: int
) -> Float[Array, "*frames h_out w_out o"]:
    """n x n pixels side by side as channels, row by row: h and w divided by n, o = n n c."""
    *frames, h, w, c = x.shape
    x = x.reshape(*frames, h // n, n, w // n, n, c).swapaxes(-4, -3)
    return x.reshape(*frames, h // n, w // n, n * n * c)


def depth_to_space(
    x: Float[Array, "*frames h w c"], n: int
) -> Float[Array, "*frames h_out w_out o"]:
    """The inverse of ``space_to_depth``: h and w times n, o = c / (n n)."""
    *frames, h, w, c = x.shape
    x = x.reshape(*frames, h, w, n, n, c // (n * n)).swapaxes(-4, -3)
    return x.reshape(*frames, h * n, w * n, c // (n * n))


def time_to_depth(x: Float[Array, "b f h w c"], n: int) -> Float[Array, "b f_out h w o"]:
    """n consecutive frames side by side as channels, in order: f divided by n, o = n c."""
    b, f, h, w, c = x.shape
    x = x.reshape(b, f // n, n, h, w, c).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(b, f // n, h, w, n * c)


def depth_to_time(x: Float[Array, "b f h w c"], n: int) -> Float[Array, "b f_out h w o"]:
    """The inverse of ``time_to_depth``: f times n, o = c / n."""
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h, w, n, c // n).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(b, f * n, h, w, c // n)
