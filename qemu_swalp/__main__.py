"""`python -m qemu_swalp` is the command `qemu-swalp`."""

import sys

from .cli import main

sys.exit(main())
