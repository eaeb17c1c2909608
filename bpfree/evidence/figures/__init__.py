"""Tidy records in, figures out. Nothing here trains or reads files; `schematic` alone asks the algorithms.

The figures of single runs are here by name. The others are in the modules of this package. `style` has what
all of them share: a figure of your own looks like them if `style.new_figure` makes it and `style.styled`
decorates the function that draws it.
"""

from . import comparison, curves, forest, frontier, hardware, landscape, resources, style, tuning
from .curves import learning_curves
from .schematic import schematic
from .single import alignment, goodness, images, pictures, reach, readout_points
from .style import energy_of

__all__ = ["alignment", "comparison", "curves", "energy_of", "forest", "frontier", "goodness"]
__all__ += ["hardware", "images", "landscape", "learning_curves", "pictures", "reach"]
__all__ += ["readout_points", "resources", "schematic", "style", "tuning"]
