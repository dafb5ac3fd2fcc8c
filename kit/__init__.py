"""kit: hardware-aware benchmarking and deployment of neural networks at the edge.

>>> import kit
>>> record = kit.profile("resnet18-d1.1.1.1-w0.25-fp32-96", budget=2)
>>> record.label in ("stable", "settled", "throttled", "inconclusive", "assumed")
True

Importing kit does no work: a name is loaded when it is first used. Everything raises :class:`kit.KitError`, whose text is a sentence,
prints nothing and never exits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit import errors, records
    from kit.api.choosing import KnowledgeBase
    from kit.api.delivering import Server, pull, serve
    from kit.api.measuring import compare, device, profile
    from kit.api.predicting import fit, predict
    from kit.api.producing import build, evaluate, export
    from kit.delivery import Delivery
    from kit.early_exit.cascade import Cascade
    from kit.errors import KitError
    from kit.latency.fits import LatencyFit
    from kit.latency.model import Predictor
    from kit.latency.networks import Prediction
    from kit.measure.compare import Comparison
    from kit.records import Answer, Artifact, DeviceSpec, LatencyModel, ProfileRecord

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Artifact",
    "Cascade",
    "Comparison",
    "Delivery",
    "DeviceSpec",
    "KitError",
    "KnowledgeBase",
    "LatencyFit",
    "LatencyModel",
    "Prediction",
    "Predictor",
    "ProfileRecord",
    "Server",
    "__version__",
    "build",
    "compare",
    "device",
    "errors",
    "evaluate",
    "export",
    "fit",
    "predict",
    "profile",
    "pull",
    "records",
    "serve",
]

_HOMES = {
    "KnowledgeBase": "kit.api.choosing",
    **dict.fromkeys(("Server", "pull", "serve"), "kit.api.delivering"),
    **dict.fromkeys(("compare", "device", "profile"), "kit.api.measuring"),
    **dict.fromkeys(("fit", "predict"), "kit.api.predicting"),
    **dict.fromkeys(("build", "evaluate", "export"), "kit.api.producing"),
    **dict.fromkeys(("Answer", "Artifact", "DeviceSpec", "LatencyModel", "ProfileRecord"), "kit.records"),
    "Cascade": "kit.early_exit.cascade",
    "Comparison": "kit.measure.compare",
    "Delivery": "kit.delivery",
    "KitError": "kit.errors",
    "LatencyFit": "kit.latency.fits",
    "Prediction": "kit.latency.networks",
    "Predictor": "kit.latency.model",
}

if not TYPE_CHECKING:  # a type checker is to know each name, and to refuse any other

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in ("errors", "records"):
            return import_module(f"kit.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'kit' has no attribute '{name}'")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
