from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _layers


class UnitTested(Rule):
    """Every model of staging, marts, marts_pii and ml has a unit test under tests/."""

    # SQLMesh's own nomissingunittest asks it of seeds, which cannot have one, and of the raw views, whose
    # test would repeat their column list.
    def check_model(self, model: Model) -> RuleViolation | None:
        if model.schema_name not in ("staging", *_layers.SHOWN) or model.kind.is_external:
            return None
        if model.name in self.context.models_with_tests:
            return None
        return self.violation(f"no unit test: write tests/{model.schema_name}/…/test_{model.view_name}.yaml")
