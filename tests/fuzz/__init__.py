"""A fuzzer of the certificate: random heads and random calls, every verdict judged by brute force.

`grammar` builds models from a grammar of torch operations, `sequences` draws calls on one explainer with
changes between them, `truth` runs the real model on other activations, `judge` says where a verdict is wrong.
``python -m fuzz`` (with ``tests`` on the path) runs many; ``test_fuzz.py`` runs a few in every test.
"""
