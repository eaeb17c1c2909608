"""The names of this room and where they live; `__init__.py` imports each when it is first used."""

from .budget import equal_budget as equal_budget
from .budget import keep as keep
from .budget import open_edges as open_edges
from .budget import tune_budgets as tune_budgets
from .plans import PLANS as PLANS
from .plans import beside_published as beside_published
from .plans import plan_of as plan_of
from .plans import published_effort as published_effort
from .results import best as best
from .results import cost as cost
from .results import importances as importances
from .results import tolerance as tolerance
from .results import trials as trials
from .search import load_study as load_study
from .search import resume as resume
from .search import study_name as study_name
from .search import sweep as sweep
from .search import tune as tune
from .spaces import draw as draw
from .spaces import search_spaces as search_spaces
from .spaces import space as space
from .storage import finished as finished
from .storage import open_storage as open_storage
from .storage import study_names as study_names
