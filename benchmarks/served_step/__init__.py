"""The step of a model through the service against the step of the bare model."""
