"""Public names, and modules that do without torch."""

import subprocess
import sys

WITHOUT_TORCH = (
    "model.config",
    "model.errors",
    "model.pydantic_base",
    "model.export.files",
    "model.kernels",
    "model.network",
    "model.training",
    "model.export",
)


def test_the_scoring_paths_modules_import_no_torch() -> None:
    code = f"""
import importlib, sys
for blocked in ("torch", "lightning", "onnx", "safetensors"):
    sys.modules[blocked] = None  # an import of it raises
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
try:
    from model.network import FEARec
except ImportError:
    print("needs torch")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("needs torch", "")


def test_packages_export_their_public_names() -> None:
    from model.export import export_encoder, export_recommender
    from model.export.graphs import export_encoder as encoder
    from model.export.graphs import export_recommender as recommender
    from model.network import FEARec
    from model.network.fearec import FEARec as Network
    from model.training import training_loss
    from model.training.losses import training_loss as loss

    assert FEARec is Network
    assert training_loss is loss
    assert (export_encoder, export_recommender) == (encoder, recommender)


def test_other_names_are_attribute_errors() -> None:
    import model.export
    import model.network
    import model.training

    for package in (model.export, model.network, model.training):
        assert not hasattr(package, "no_such_name")
