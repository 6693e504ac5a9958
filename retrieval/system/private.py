"""Nothing leaves this machine: reports of use that libraries send over the network are switched off before they load.

OpenVINO's package reports to a measuring service when it is imported, and keeps an id of the user in the home folder; NNCF
reports through the same package. Both do without where it cannot be imported. The other libraries in use (timm with
huggingface_hub, torch, tensorboard) send nothing at the calls made here; the settings by which they and what they bring
along would be told so are set all the same. A program that loaded such a package before this one has decided for itself.
"""

from __future__ import annotations

import os
import sys

_REPORTERS = ("openvino_telemetry",)
_SETTINGS = {
    "DO_NOT_TRACK": "1",  # what several libraries and their tools agreed on
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",  # the same for older versions
}


def keep_private() -> None:
    """Switch the reports off for this process and those that it starts. Cheap; the package itself calls it at its import,
    so no path to one of the libraries goes around it, and so does every process that runs any of its modules."""
    for name in _REPORTERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
