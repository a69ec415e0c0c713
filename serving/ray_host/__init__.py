"""Run Ray and the Serve application."""
