"""Tidy records in, tables out. Nothing here trains or reads files.

summary, bill_of_run, readouts, passes_times_cost      what runs reached and cost
ff_performance, ff_efficiency, cafo_..., mf_..., cross_algorithm
                                                the paper's tables, its numbers beside ours
overview, gap_to_printed                        all of it in a row; what sets it apart from what was printed
agreement                                       how far ours agree with what was printed
best_hyperparameters, environment               what was trained with, and on
markdown, latex                                 a table as text
"""

from .paper import (
    agreement,
    cafo_efficiency,
    cafo_performance,
    cross_algorithm,
    ff_efficiency,
    ff_performance,
    gap_to_printed,
    mf_efficiency,
    mf_performance,
    overview,
)
from .setup import best_hyperparameters, environment
from .summary import bill_of_run, passes_times_cost, readouts, summary
from .text import Quantity, latex, markdown

__all__ = ["agreement", "best_hyperparameters", "bill_of_run", "cafo_efficiency", "cafo_performance"]
__all__ += ["cross_algorithm", "environment", "ff_efficiency", "ff_performance", "gap_to_printed", "latex"]
__all__ += ["Quantity", "mf_efficiency", "mf_performance", "overview", "passes_times_cost"]
__all__ += ["markdown", "readouts", "summary"]
