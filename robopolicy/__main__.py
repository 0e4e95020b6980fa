"""``python -m robopolicy`` is the command ``robopolicy``."""

import sys

from robopolicy.cli import main

sys.exit(main())
