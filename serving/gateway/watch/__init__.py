"""Follow jobs for callers that wait."""
