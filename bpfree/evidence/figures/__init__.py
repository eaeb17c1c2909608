"""Tidy records in, figures out. Nothing here trains or reads files.

The figures of single runs are here by name. The others are in the modules of this package. `style` has what
all of them share: a figure of your own looks like them if `style.new_figure` makes it and `style.styled`
decorates the function that draws it.
"""

from . import comparison, curves, forest, hardware, landscape, resources, style, tuning
from .single import alignment, bill_bars, goodness, images, learning_curves, pictures, reach, readout_points
from .style import energy_of

__all__ = ["comparison", "curves", "forest", "hardware", "landscape", "resources", "style", "tuning"]
__all__ += ["alignment", "bill_bars", "energy_of", "goodness", "images", "learning_curves", "pictures"]
__all__ += ["reach", "readout_points"]
