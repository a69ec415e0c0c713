"""``python -m zoetrope.benchmarks.cached_quality``."""

import sys

from zoetrope.benchmarks.cached_quality import main

sys.exit(main())
