"""yolop: a reproducible study of shrinking and pruning YOLOv5.

One idea runs through the package: spec -> record -> table -> figure -> sentence.

    paper       what the paper prints and claims, and the audit of its arithmetic
    specs       frozen descriptions of work; the identity of a run
    store       get_or_run(spec): content-keyed, atomic, verified on read
    study       the graph of a study: which spec needs which, computed on demand
    recipe      which p the paper trained and what it pruned, by arithmetic on shapes
    datasets    digits (generated) and any YOLO data.yaml, checked before use
    downloads   files whose content is known: found in place or fetched, unpacked safely
    public      bccd, coco128 and the official weights by name
    models      YOLOv5 v6 from (depth, width, classes); census; closed-form counts
    head        the anchor-based Detect layer, its loss, anchors fitted to a data set
    checkpoints safetensors; transfer of weights between sizes
    training    TrainSpec -> weights, a thin subclass of ultralytics' trainer
    evaluation  mAP on a validation set that stays in memory
    latency     paired timing with intervals and an equivalence test
    pruning     L1, random and global masks by module type; achieved sparsity
    torch_sparse what PyTorch's own sparse tensors do for the layers of a network
    sparse      a network run by its non-zero weights only; its compiled parts: kernels
    atlas       which convolution gains from zeros, and from how many
    sparse_training zeros that come gradually while a network trains, taught by the dense one
    narrowing   channels really removed
    runtimes    ONNX Runtime, OpenVINO, ncnn: export, quantise, run, time each in a process of its own
    tables      every table: a function from records to a DataFrame
    reporting   sentences and formats; what a notebook shows
    claims      verdicts on the paper's sentences
    plots       figures from tables
    page        index.html
    drift       a fresh run against the committed evidence
    runner      the notebooks in order, status, verify, publish; doctor checks the machine
    __main__    python -m yolop run | export | status | verify | publish | doctor

"p" is a YOLOv5 smaller than n, after the paper studied here. It is not the driving-perception network called YOLOP.
"""

import atexit
import os
import shutil
import sys
import tempfile

__version__ = "0.1.0"

# Notebooks run in a folder of their own, so a relative path would mean another place there.
for _name in ("YOLOP_ROOT", "YOLOP_DATA"):
    if os.environ.get(_name):
        os.environ[_name] = os.path.abspath(os.path.expanduser(os.environ[_name]))
try:
    _private = tempfile.mkdtemp(prefix="yolop-")
except OSError as _error:
    raise SystemExit(f"yolop: {_error}: make room in one of these, or name another folder in TMPDIR") from None
# ultralytics reads these when it is first imported: no pip at run time, no telemetry, no foreign pickles, its settings
# in a folder of this process (the user's own file stays untouched), and no progress bars in notebooks.
os.environ.update(
    YOLO_AUTOINSTALL="false",
    YOLO_OFFLINE="true",
    ULTRALYTICS_SAFE_LOAD="true",
    YOLO_VERBOSE="false",
    YOLO_CONFIG_DIR=_private,
    ORT_DISABLE_TELEMETRY="1",  # ONNX Runtime reports to its maker unless told not to, with an identifier of the machine
)
sys.modules["openvino_telemetry"] = None  # so does OpenVINO, of every conversion; without this package it cannot
_home = os.path.expanduser("~")
if not (os.path.isabs(_home) and os.access(_home, os.W_OK | os.X_OK)):
    os.environ["HOME"] = _private  # without a home Jupyter does not start and Numba keeps no compiled code
atexit.register(shutil.rmtree, _private, ignore_errors=True)
for _name in ("ULTRALYTICS_API_KEY", "WANDB_API_KEY", "COMET_API_KEY", "CLEARML_API_ACCESS_KEY"):
    os.environ.pop(_name, None)
