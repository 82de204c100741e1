"""What the commands work with, loaded at its first use: most of it loads torch, and ``--help`` needs none."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


class Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch

    from hirescam import demo, evaluation, io, metrics, models, pages, reports, rulebook
else:
    torch = Later("torch")
    demo = Later("hirescam.demo")
    evaluation = Later("hirescam.evaluation")
    io = Later("hirescam.io")
    metrics = Later("hirescam.metrics")
    models = Later("hirescam.models")
    pages = Later("hirescam.pages")
    reports = Later("hirescam.reports")
    rulebook = Later("hirescam.rulebook")

__all__ = ["demo", "evaluation", "io", "metrics", "models", "pages", "reports", "rulebook", "torch"]
