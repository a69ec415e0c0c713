"""``python -m zoetrope.benchmarks.quantized_quality``."""

import sys

from zoetrope.benchmarks.quantized_quality import main

sys.exit(main())
