"""Train one stage of a SkipSR model: ``python train.py --help``."""

import sys

from skipsr_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
