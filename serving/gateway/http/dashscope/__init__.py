"""The DashScope API."""
