"""Names that scripts pass to `AblationCAM`; channels are removed without a layer in the model."""


class AblationLayer:
    """Sets channels to zero, always; that library subtracts 1e7 where the smallest activation is not zero."""


class AblationLayerVit(AblationLayer):
    """The same: where the channels are is known."""
