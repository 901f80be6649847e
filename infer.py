"""Upscale videos, images and folders of frames: ``python infer.py --help``."""

import sys

from skipsr_jax.cli.infer import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
