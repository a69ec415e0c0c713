"""What every API of the gateway works with: jobs, media and files of an authenticated caller."""
