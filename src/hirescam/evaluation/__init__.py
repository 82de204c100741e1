"""Measure rules on data of one's own: samples come in, figures with intervals, files and a page go out."""

from hirescam.evaluation.choices import ORDER
from hirescam.evaluation.contenders import BASELINES, Baseline
from hirescam.evaluation.frames import Frame, framed, whole
from hirescam.evaluation.naming import naming_of, read_classes
from hirescam.evaluation.result import About, Evaluation
from hirescam.evaluation.samples import Box, Data, MaskFile, Sample, folder_data
from hirescam.evaluation.session import STORE, Settings, evaluate
from hirescam.evaluation.summary import PLAUSIBILITY, QUESTIONS, Row
from hirescam.evaluation.tables import tables_of
from hirescam.evaluation.voc import CLASSES, Truth, voc_data
from hirescam.evaluation.writing import PAGE
from hirescam.wording import DEFAULT_METRICS, DEFAULT_RULES

__all__ = [
    "BASELINES",
    "CLASSES",
    "DEFAULT_METRICS",
    "DEFAULT_RULES",
    "ORDER",
    "PAGE",
    "PLAUSIBILITY",
    "QUESTIONS",
    "STORE",
    "About",
    "Baseline",
    "Box",
    "Data",
    "Evaluation",
    "Frame",
    "MaskFile",
    "Row",
    "Sample",
    "Settings",
    "Truth",
    "evaluate",
    "folder_data",
    "framed",
    "naming_of",
    "read_classes",
    "tables_of",
    "voc_data",
    "whole",
]
