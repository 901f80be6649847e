"""The size to which an input is upscaled."""

from skipsr_jax.errors import UserError
from skipsr_jax.inference.settings import Size


def target_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """The (height, width) in pixels to which a height x width input is upscaled.

    Raises UserError when a side would have no pixel or more than 16384.
    """
    if size.height and size.width:
        target = size.height, size.width
    elif size.height:
        target = size.height, round(width * size.height / height)
    elif size.width:
        target = round(height * size.width / width), size.width
    else:
        target = round(height * size.factor), round(width * size.factor)
    if not (min(target) >= 1 and max(target) <= 16384):
        raise UserError(
            f"{width}x{height} input would become {target[1]}x{target[0]}: sides must lie within "
            f"1 .. 16384 pixels; change config.size"
        )
    return target
