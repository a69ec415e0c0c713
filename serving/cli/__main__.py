"""``python -m zoetrope.serving.cli``: the same as the command `zoetrope`."""

import sys

from zoetrope.serving.cli.app import main

sys.exit(main())
