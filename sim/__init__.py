"""The kernel of `sim`: runs an exercise, records what happened and judges the record. Knows no fault and no tool."""

__version__ = "0.1.0"
