"""What the fork server of the commands imports: everything, and the exporter has run once.

A command that is forked from it begins its work at once, with the code of a new interpreter.
"""

# ruff: noqa: F401
from pathlib import Path
from tempfile import TemporaryDirectory

import deltalake
import duckdb
import pytest  # whose entry point multiprocessing imports again in each process
from markupsafe import Markup

import flows.cli.main
import flows.console.night
import pipeline.data.ingest
import pipeline.data.prepare
import pipeline.evaluation.evaluate
import pipeline.publishing.publish
import pipeline.reporting.charts
import pipeline.reporting.report
import pipeline.runner.nightly
import pipeline.scoring.cli
import pipeline.scoring.run
import pipeline.training.export
import pipeline.training.train
import tests.end_to_end.faults.commands
import tests.end_to_end.faults.log_oracle
from model.config import FEARecConfig
from model.export.graphs import export_encoder
from model.network.fearec import FEARec

# Drawing takes most of a small night's time, and no case looks at the charts.
pipeline.reporting.charts._svg = lambda *given, **options: Markup("")

with TemporaryDirectory() as folder:
    sizes = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 6}
    # The architecture of a `World`, which no command has to trace once more.
    network = FEARec(FEARecConfig.from_preset("recbole", n_items=3, **sizes)).eval()
    export_encoder(network, Path(folder) / "encoder.onnx")
