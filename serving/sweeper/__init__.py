"""The sweeper: sends webhooks, ends what is overdue, deletes what has expired."""
