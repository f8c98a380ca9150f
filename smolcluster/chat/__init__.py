"""Talking to a served model: the HTTP backend and the page."""
