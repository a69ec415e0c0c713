"""The commands of `zoetrope bench`: those that users type, and by which result files name what made them."""

from __future__ import annotations

# Command -> MODULE:FUNCTION: a function with typer's options, or a `main(arguments)` that parses the rest by itself.
# The help loads the module, which therefore imports nothing heavy until its function runs.
COMMANDS: dict[str, str] = {
    "serve": "zoetrope.benchmarks.serving_load.command:serve",
    "model": "zoetrope.benchmarks.model_steps.__main__:main",
    "quality": "zoetrope.benchmarks.quality.__main__:main",
    "peers": "zoetrope.benchmarks.peers.__main__:main",
    "report": "zoetrope.benchmarks.report:main",
    "smoke": "zoetrope.benchmarks.smoke:main",
}
