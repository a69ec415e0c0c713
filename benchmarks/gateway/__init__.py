"""What a gateway carries, with a null engine in the router's place."""
