"""Tasks with a known answer, made on the spot: a small network is trained, images are chosen and checked.

scikit-learn's handwritten digits come in; a `Task` comes out, the same one each time for a seed. Each takes
seconds; the global random state and the number of threads stay as they are.
"""

from hirescam.tasks.grid import grid_pointing
from hirescam.tasks.heads import digits_cut, digits_flatten, digits_pooled
from hirescam.tasks.tag import planted_tag
from hirescam.tasks.task import Task, compare

__all__ = [
    "Task",
    "compare",
    "digits_cut",
    "digits_flatten",
    "digits_pooled",
    "grid_pointing",
    "planted_tag",
]
