"""Settings, startup checks, heartbeats, shutdown and logging, shared by all processes of a service."""
