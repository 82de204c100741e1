"""Mutation testing: which tests belong to a module."""

_PASSES = [
    "axis_rules",
    "borrow",
    "cut",
    "geometry",
    "head",
    "held",
    "input_axes",
    "keys",
    "laying",
    "layout",
    "outputs",
    "parts",
    "precision",
    "provenance",
    "randomness",
    "restore",
    "state",
    "taps",
    "targets",
    "trace",
    "watch",
]
_PROOF = [
    "certificate",
    "fingerprint",
    "grade",
    "graph",
    "judging",
    "laws",
    "measuring",
    "ops",
    "placing",
    "probes",
    "selection",
]
_RULEBOOK = ["ablation", "activation", "gradient", "masking", "principal", "registry"]

TESTS = {
    **{f"passes/{name}": [f"passes/test_{name}.py"] for name in _PASSES},
    **{f"proof/{name}": [f"proof/test_{name}.py"] for name in _PROOF},
    **{f"rulebook/{name}": ["test_rules.py"] for name in _RULEBOOK},
    **{name: [f"test_{name}.py"] for name in ("closed_form", "planning", "explainer")},
}
"""A module's tests, under tests. A module is left out while it has none of them."""
