"""``python -m mllandscape`` is the command ``mllandscape``."""

import sys

from mllandscape.cli import main

sys.exit(main())
