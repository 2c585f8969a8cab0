"""``python -m deepmd_gnn``: the command ``deepmd-gnn``."""

import sys

from deepmd_gnn.cli import main

sys.exit(main())
