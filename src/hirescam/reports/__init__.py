"""Picture files and a model come in; overlays, arrays, figures and pages on disk go out."""

from hirescam.reports.comparing import CompareReport, compare_file, remarks
from hirescam.reports.drawing import grey, panel, picture_of
from hirescam.reports.explaining import (
    INLINE_PICTURES,
    MEASURED_PICTURES,
    Done,
    ExplainReport,
    Job,
    explain_exported,
    explain_files,
)
from hirescam.reports.figures import (
    SAME,
    certified_laws,
    field_of,
    laws_of,
    map_of,
    only,
    plain,
    run_of,
    verdict_data,
)
from hirescam.reports.files import check_writable, find_pictures, unique_names
from hirescam.reports.wishes import Wish, check_pictures, class_index, target_of
from hirescam.wording import printable

__all__ = [
    "INLINE_PICTURES",
    "MEASURED_PICTURES",
    "SAME",
    "CompareReport",
    "Done",
    "ExplainReport",
    "Job",
    "Wish",
    "certified_laws",
    "check_pictures",
    "check_writable",
    "class_index",
    "compare_file",
    "explain_exported",
    "explain_files",
    "field_of",
    "find_pictures",
    "grey",
    "laws_of",
    "map_of",
    "only",
    "panel",
    "picture_of",
    "plain",
    "printable",
    "remarks",
    "run_of",
    "target_of",
    "unique_names",
    "verdict_data",
]
