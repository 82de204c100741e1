"""Networks of many families, with random weights, and what is true of their maps."""
