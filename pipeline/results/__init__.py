"""What each stage returns: frozen, and as JSON part of a run's records."""

from pipeline.results.data_results import Check, Checked, Ingested, Prepared
from pipeline.results.model_results import Evaluated, Exported, Float16Check, Gated, Trained
from pipeline.results.table_results import Published, Scored

__all__ = [
    "Check",
    "Checked",
    "Evaluated",
    "Exported",
    "Float16Check",
    "Gated",
    "Ingested",
    "Prepared",
    "Published",
    "Scored",
    "Trained",
]
