"""Turn a request of any API into a job."""
