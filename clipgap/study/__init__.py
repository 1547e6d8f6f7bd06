"""Studies: recipes of stages, each one clipgap command, run until all their outputs stand."""

from clipgap.study.recipe import Recipe, read_recipe
from clipgap.study.run import Plan, Starting, Study, StudyResult, run_study
from clipgap.study.shipped import find_recipe, shipped_recipes

__all__ = [
    "Plan",
    "Recipe",
    "Starting",
    "Study",
    "StudyResult",
    "find_recipe",
    "read_recipe",
    "run_study",
    "shipped_recipes",
]
