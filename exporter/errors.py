"""Everything that `exporter` raises.

ExportError               root; its text is one line: what happened, the value, what to do
├── SourceError           the checkpoint cannot be opened or is not what it says
├── ConversionError       this model cannot be carried into the graph, or the graph differs from PyTorch
├── EngineError           an engine cannot be built here, or not for this device, or is not what it should be
├── OrderError            what was asked for cannot be had for this device: precision, memory
├── CalibrationError      the calibration or evaluation text is unusable
├── OutputError           the bundle cannot be written where it was asked for
├── SigningError          a key or command that cannot sign
└── GateRefused           no candidate is truthful (or small) enough: exit code 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.report import Report


class ExportError(Exception):
    """Root of all errors of this package."""


class SourceError(ExportError):
    """The checkpoint cannot be opened."""


class ConversionError(ExportError):
    """The model cannot be carried, or its graph does not compute what PyTorch computes."""


class EngineError(ExportError):
    """An engine cannot be built, or a device cannot run it, or a file is no whole engine."""


class OrderError(ExportError):
    """What was asked for cannot be had for this device."""


class CalibrationError(ExportError):
    """Text that cannot be used for calibration or evaluation."""


class OutputError(ExportError):
    """The bundle cannot be written."""


class SigningError(ExportError):
    """The bundle cannot be signed."""


class GateRefused(ExportError):
    """Nothing passed the accuracy gate; `report` tells what was tried."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report
