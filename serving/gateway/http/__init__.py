"""The HTTP APIs: Replicate, OpenAI videos, DashScope, the dashboard and probes, over the same jobs as gRPC."""
