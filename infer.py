"""Upscale videos, images and folders of frames: ``python infer.py --help``."""

import sys

from skipsr_jax.cli.commands import infer

if __name__ == "__main__":
    sys.exit(infer())
