"""``python -m serving.cli``: the same as the command `zoetrope`."""

import sys

from serving.cli.app import main

sys.exit(main())
