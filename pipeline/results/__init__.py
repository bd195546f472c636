"""What each stage returns: frozen, and as JSON part of a run's records."""

from pipeline.results.clean_results import Cleaned, CleanedTable
from pipeline.results.data_results import Check, Checked, Forgotten, Ingested, Prepared, held_by
from pipeline.results.evaluated import Evaluated, PairedDifference, headline_metric, headline_of
from pipeline.results.explained import Explained, Reason
from pipeline.results.model_results import Exported, Float16Check, Gated, Trained, Unfit
from pipeline.results.related_results import AudienceFound, Embedded, RelatedItems
from pipeline.results.status_results import RunSummary, Status
from pipeline.results.table_results import (
    NewItemCounts,
    PairCounts,
    Published,
    RuleCounts,
    Scored,
    SegmentCounts,
)

__all__ = [
    "AudienceFound",
    "Check",
    "Checked",
    "Cleaned",
    "CleanedTable",
    "Embedded",
    "Evaluated",
    "Explained",
    "Exported",
    "Float16Check",
    "Forgotten",
    "Gated",
    "Ingested",
    "NewItemCounts",
    "PairCounts",
    "PairedDifference",
    "Prepared",
    "Published",
    "Reason",
    "RelatedItems",
    "RuleCounts",
    "RunSummary",
    "Scored",
    "SegmentCounts",
    "Status",
    "Trained",
    "Unfit",
    "headline_metric",
    "headline_of",
    "held_by",
]
