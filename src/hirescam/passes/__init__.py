"""Run a model and see what it did: from a borrowed model to a frozen trace."""
