from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _layers


class KindsAllowed(Rule):
    """Marts and ml are tables, and no model's content depends on how often or in which order it ran."""

    def check_model(self, model: Model) -> RuleViolation | None:
        kind = model.kind
        if kind.is_incremental_unmanaged:
            return self.violation(
                f"kind {kind.name.value} only appends, so a repeated run doubles rows: use FULL or "
                "CUSTOM (materialization 'replace_touched')"
            )
        if kind.is_incremental_by_time_range:
            return self.violation(
                f"kind {kind.name.value} loses rows that arrive after its lookback: use "
                "CUSTOM (materialization 'replace_touched')"
            )
        if model.schema_name in _layers.SHOWN and (kind.is_view or kind.is_embedded):
            return self.violation(
                f"kind {kind.name.value} makes every reader pay for the query: use FULL or "
                "CUSTOM (materialization 'replace_touched')"
            )
        return None
