"""Run the command line as `python -m corlld`."""

import sys

from corlld.cli import entry

sys.exit(entry())
