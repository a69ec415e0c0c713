"""The OpenAI video API."""
