"""`zoetrope bench serve`: an open-loop load on a service that speaks our gRPC or OpenAI's videos API."""
