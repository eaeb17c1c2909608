"""Tidy records in, tables out. Nothing here trains or reads files.

summary, bill_of_run, readouts, passes_times_cost      what runs reached and cost
undecided                                       what the runs leave open, and for how many pairs more
ff_performance, ff_efficiency, cafo_..., mf_..., cross_algorithm
                                                the paper's tables, its numbers beside ours
what_a_joule_buys, at_a_glance, bought          backpropagation against local learning on budgets
for_as_many_joules                              the same of plain BP and MF, in operations and joules
by_budget, at_best                              what budgets bought, all of them and each arm's best
beside_patience                                 the same arms where training ends by itself
solved                                          what closed forms bought beside it
to_target, at_equal_accuracy                    what a target costs, and what backpropagation's best does
overview, gap_to_printed                        all of it in a row; what sets it apart from what was printed
agreement                                       how far ours agree with what was printed
best_hyperparameters, environment               what was trained with, and on
coverage, filled, campaign                      what was run, how much of the paper that is, how long it took
claims, claims_in_brief, claims_by_protocol     the papers' claims and what was found of them
markdown, latex                                 a table as text
"""

from .at_a_glance import (
    LEADS,
    MISSED,
    NOWHERE,
    UNKNOWN,
    Buys,
    at_a_glance,
    bought,
    for_as_many_joules,
    what_a_joule_buys,
)
from .budgets import at_best, at_equal_accuracy, beside_patience, by_budget, solved, to_target
from .claims import claims, claims_by_protocol, claims_in_brief
from .coverage import NOT_RUN, campaign, coverage, filled, machine_names
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
from .summary import bill_of_run, passes_times_cost, readouts, summary, undecided
from .text import Quantity, latex, markdown

__all__ = ["LEADS", "MISSED", "NOT_RUN", "NOWHERE", "UNKNOWN", "Buys", "Quantity", "agreement"]
__all__ += [
    "at_a_glance",
    "at_best",
    "at_equal_accuracy",
    "beside_patience",
    "best_hyperparameters",
    "bill_of_run",
    "bought",
    "by_budget",
]
__all__ += ["cafo_efficiency", "cafo_performance", "campaign", "claims", "claims_by_protocol"]
__all__ += ["claims_in_brief", "coverage", "cross_algorithm", "environment", "ff_efficiency"]
__all__ += [
    "ff_performance",
    "filled",
    "for_as_many_joules",
    "gap_to_printed",
    "latex",
    "machine_names",
    "markdown",
]
__all__ += [
    "mf_efficiency",
    "mf_performance",
    "overview",
    "passes_times_cost",
    "readouts",
    "solved",
    "summary",
]
__all__ += ["to_target", "undecided", "what_a_joule_buys"]
