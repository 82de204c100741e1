"""Targets, pictures and reshape transforms under the names that scripts import."""
