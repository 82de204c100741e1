"""Small trained networks of the package's own, for the demo, the tests and the documentation.

``lite0`` (pooled head), ``crepe`` (sound, flatten head) and ``digits`` (flatten head, trained on
the spot) say what a network is; ``weights`` finds and reads the files that hold trained values.
"""
