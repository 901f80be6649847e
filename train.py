"""Train one stage of a SkipSR model: ``python train.py --help``."""

import sys

from skipsr_jax.cli.commands import train

if __name__ == "__main__":
    sys.exit(train())
