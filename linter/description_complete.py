import re

from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _layers


class DescriptionComplete(Rule):
    """A description begins "One row per …"; in marts, marts_pii and ml it goes on "Answers: …"."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        if model.kind.is_external:
            return None
        description = model.description or ""
        violations = []
        if not re.match(r"One row per \S", description):
            violations.append(self.violation('the description must begin with "One row per …"'))
        if model.schema_name in _layers.SHOWN and not re.search(r"\bAnswers: \S", description):
            violations.append(
                self.violation('the description must say "Answers: …", the questions that people bring to this table')
            )
        return violations
