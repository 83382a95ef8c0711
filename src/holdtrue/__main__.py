"""``python -m holdtrue`` (also under torchrun: ``torchrun --nproc-per-node 2 -m holdtrue train ...``)."""

import sys

from holdtrue.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
