"""The layers of models: shared by the rules that depend on them."""

READS = {
    "raw": ("landing",),
    "seeds": (),
    "staging": ("raw", "seeds", "staging"),
    "marts": ("staging", "marts"),
    "marts_pii": ("staging", "marts"),
    "ml": ("marts", "staging", "ml"),
}
"""Layer -> the layers that it reads. Nobody reads marts_pii: from there personal data would go on."""

SHOWN = ("marts", "marts_pii", "ml")
"""The layers that people read."""
