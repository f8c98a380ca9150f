"""The synchronous parameter server."""
