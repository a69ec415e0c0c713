"""The `zoetrope` command. Start-up imports neither torch nor Ray: a command imports what it needs when it runs."""

from zoetrope.serving.cli.app import main

__all__ = ["main"]
