"""Operations on frames that run on the device, and that training and inference share.

``resample`` resizes frames, ``colour_fix`` matches decoded frames to the upscaled input, and
``compose`` puts computed and skipped patches together.
"""
