"""`python -m corlld`."""

import sys

from corlld.cli import main

sys.exit(main())
