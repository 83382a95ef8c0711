"""``python -m holdtrue.training.launch``: torchrun, silent about workers that have said what went wrong."""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    for name in ("torch.distributed.run", "torch.distributed.elastic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        main(sys.argv[1:])
    except (ChildFailedError, SignalException):
        sys.exit(1)
