"""What does a map cost next to the bare forward pass, and next to the same work in other libraries?

One module for each table; ``python -m benchmarks`` runs them, each in a process of its own.
"""

TABLES = (
    "one_image",
    "classes",
    "batches",
    "growth",
    "memory",
    "first_call",
    "startup",
    "channels_last",
    "engines",
    "micro",
)
"""The modules that make a table, in the order in which they run."""
