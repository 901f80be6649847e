"""The shape of a result's pixels, where those of its source are not square."""

from fractions import Fraction

from skipsr_jax.media.reader import Media

_NEARLY_SQUARE = Fraction(1, 50)


def pixel_aspect(source: Media, height: int, width: int) -> Fraction:
    """Width over height of a pixel of the result, so that it is shown with the source's aspect.

    Square pixels stay square: who gives both sides of such a picture wants them.
    """
    ratio = source.sample_aspect_ratio
    if ratio == 1 or abs(source.width * height - width * source.height) < source.height:
        return ratio  # both sides grow alike, to a pixel
    ratio *= Fraction(source.width * height, source.height * width)
    return Fraction(1) if abs(ratio - 1) < _NEARLY_SQUARE else ratio.limit_denominator(1000)
