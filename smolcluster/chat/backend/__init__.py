"""The HTTP API of a served model (FastAPI): READING.md, Inference."""
