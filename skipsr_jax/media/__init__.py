"""Files of videos and pictures: reading, writing, time stamps, colour, sound. Imports no jax."""
