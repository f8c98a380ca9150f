"""YAML -> frozen, validated objects. No torch.

Request -> resolve() -> Resolved(cluster, run, notes, inputs), or ConfigError with every problem of every file
"""
