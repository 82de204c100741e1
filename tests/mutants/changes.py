"""What is changed in a source: the operators of cosmic-ray, without those that say nothing of the tests."""

import ast
import difflib
from collections.abc import Iterator

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

SWAPS = """
    Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_FloorDiv Pow_Mul BitOr_BitAnd BitAnd_BitOr BitXor_BitOr
    Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt
    Delete_Not Delete_USub Delete_Invert
"""
"""Which sign becomes which. The tool's other pairs mostly make code that raises, or that does the same."""


def mutants(source: str) -> list[str]:
    """The source with one change, for every change."""
    nodes, found = list(ast_nodes(get_ast(source))), []
    for name in operator_names():
        sign = name.partition("Operator_")[2]
        if name.startswith("core/Variable") or (sign and sign not in SWAPS.split()):
            continue
        operator = get_operator(name)()
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        types = list(_annotations(source))
        kept = [n for n, at in enumerate(starts) if not any(a <= at < b for a, b in types)]
        found += [mutate_code(source, operator, n) for n in kept]
    return sorted({text for text in found if text is not None} - {source})


def difference(old: str, new: str) -> str:
    """The line where two sources first differ, and the lines that went and came."""
    lines = list(difflib.ndiff(old.splitlines(), new.splitlines()))
    first = next(n for n, line in enumerate(lines, 1) if line[0] in "-+")
    return "\n".join([str(first), *(f"  {line}" for line in lines if line[0] in "-+")])


def _annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types are written: nothing of that runs."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            if (part := getattr(node, name, None)) is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
