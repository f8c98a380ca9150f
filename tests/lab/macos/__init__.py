"""Stand-ins for the tools of macOS: they do what they are told to the host's own interfaces, with `ip`, and tell of it
as the real ones do. What they keep, they keep in files; every call is noted (record.py).

What is known of the real tools comes from their manual pages and from output that people published; nobody has compared
these with a Mac. A question or an option that is not known here fails (exit code 64) instead of pretending.
The standard library only: they run on the hosts of the lab, as `python -m macos TOOL ARGUMENTS`.
"""
