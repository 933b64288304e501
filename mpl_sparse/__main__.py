"""`python -m mpl_sparse` is `mpl-sparse`; without a command it tells about this machine."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["info"]))
