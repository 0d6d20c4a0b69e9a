"""What ultralytics and the runtimes find in this process: they report nothing, install nothing and ask nobody.

Importing this module sets it, so the packages that use them (`network`, `measure`, `train`, `speed`) import it first. The
user's keys (WANDB_API_KEY and the like) stay in the environment, his own settings of ultralytics are not touched.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

INTEGRATIONS = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")


def writable(folder: Path | str) -> bool:
    """Whether a path is absolute, and a folder that this user may write into."""
    return os.path.isabs(folder) and os.access(folder, os.W_OK | os.X_OK)


_above = os.environ.get("YOLO_CONFIG_DIR", "")  # of a process of ours that started this one: takes ours along when it ends
try:
    PRIVATE = Path(tempfile.mkdtemp(prefix="yolop-", dir=_above if "yolop-" in _above and writable(_above) else None))
except OSError as error:
    text = f"{error.strerror}: make room in one of these, or name another folder in TMPDIR"
    raise OSError(error.errno, text) from None
atexit.register(shutil.rmtree, PRIVATE, ignore_errors=True)

(PRIVATE / "Ultralytics").mkdir()
(PRIVATE / "Ultralytics" / "settings.json").write_text(json.dumps(dict.fromkeys(INTEGRATIONS, False)))
os.environ.update(  # ultralytics reads its own when it is first imported
    YOLO_CONFIG_DIR=str(PRIVATE),
    YOLO_AUTOINSTALL="false",
    YOLO_OFFLINE="true",
    YOLO_VERBOSE="false",  # no progress bars in notebooks
    ULTRALYTICS_SAFE_LOAD="true",  # no foreign pickles
    ORT_DISABLE_TELEMETRY="1",  # ONNX Runtime reports to its maker unless told not to, with an identifier of the machine
    NNCF_CI="1",
)
sys.modules["openvino_telemetry"] = None  # OpenVINO reports every conversion; without this package it cannot
if not writable(os.path.expanduser("~")):
    os.environ.setdefault("MPLCONFIGDIR", str(PRIVATE))
    if not writable(Path(__file__).parent / "speed"):  # Numba refuses functions that it can keep nowhere
        os.environ.setdefault("NUMBA_CACHE_DIR", str(PRIVATE))
