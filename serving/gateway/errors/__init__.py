"""The form that every error takes before an API renders it."""
