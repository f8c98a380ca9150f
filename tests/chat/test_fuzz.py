"""The schema fuzzed: whatever is sent, there is an answer as the schema says, and never a 500."""
