"""Operations on frames that run on the device: resampling, compositing, colour fix."""
