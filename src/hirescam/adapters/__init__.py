"""Methods and metrics of other libraries: captum, zennit and Quantus, of which none is a requirement.

Methods of captum and zennit explain the pixels of the input instead of a layer's cells, see
`explain_input`. Quantus takes `quantus_explain` as an explanation function.
"""

from hirescam.adapters.attribution import InputAttribution
from hirescam.adapters.inputs import explain_input, input_methods
from hirescam.adapters.quantus import quantus_explain

__all__ = ["InputAttribution", "explain_input", "input_methods", "quantus_explain"]
