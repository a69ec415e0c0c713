"""`zoetrope serve`: starts the processes of a service and keeps them running."""
