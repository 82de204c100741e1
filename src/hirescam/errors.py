"""The exceptions and warnings of the package, one tree.

HirescamError
├── InputError          images or another argument are not what they must be
│   └── TargetError     the target cannot be read, or does not fit the output
├── LayerError          a layer cannot be found, or cannot be explained
├── ModelError          the model is in a state, or of a kind, that cannot be explained
│   └── OutputError     what the model returned cannot be used as scores
├── RuleError           a rule is unknown, or does not apply to this model
├── MetricError         a metric is unknown, or does not apply to what it was given
├── ImageFileError      an image file cannot be read
├── SpecError           a model reference such as ``torchvision:resnet50`` cannot be resolved
└── WeightsError        a weights file cannot be loaded, or is refused

Every message says what was wrong, what came, what was expected and what to do next.
"""


class HirescamError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(HirescamError, ValueError):
    """An argument is not what it must be."""


class TargetError(InputError):
    """The target cannot be read, or does not fit the model's output."""


class LayerError(HirescamError, LookupError):
    """A layer cannot be found, or cannot be explained."""


class ModelError(HirescamError, RuntimeError):
    """The model is in a state, or of a kind, that cannot be explained."""


class OutputError(ModelError):
    """What the model returned cannot be used as scores."""


class RuleError(HirescamError, ValueError):
    """A rule is unknown, or does not apply to this model."""


class MetricError(HirescamError, ValueError):
    """A metric is unknown, or does not apply to what it was given."""


class ImageFileError(HirescamError, OSError):
    """An image file cannot be read."""


class SpecError(HirescamError, ValueError):
    """A model reference cannot be resolved."""


class WeightsError(HirescamError, ValueError):
    """A weights file cannot be loaded, or is refused."""


class HirescamWarning(UserWarning):
    """Something is allowed but deserves a look."""
