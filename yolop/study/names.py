"""How models, runtimes and options are called in tables and figures. No identity and no lookup depends on these words."""

NAMES = {
    "s": "YOLOv5s",
    "n": "YOLOv5n",
    "p": "YOLOv5p",
    "p-corpus": "YOLOv5p (on the corpus)",
    "n-coco": "YOLOv5n (COCO weights)",
    "p-best": "YOLOv5p (best.pt)",
    "p-same-steps": "YOLOv5p (same total steps)",
    "p-coco": "YOLOv5p (COCO weights)",
    "p-coco-same-steps": "YOLOv5p (COCO weights, same total steps)",
    "n-other": "YOLOv5n (on other data)",
    "p-other": "YOLOv5p (pretrained on other data)",
    "p-from-n-l1": "YOLOv5p (n's largest channels)",
} | {label: f"YOLOv5{label}" for label in ("x", "l", "m")}
RUNTIME_NAMES = {
    "pytorch": "PyTorch",
    "sparse": "sparse engine",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bfloat16",
    "openvino-int8": "OpenVINO int8",
    "ncnn": "ncnn",
    "sparse-int8": "sparse engine int8",
}
ZEROS = {
    "global": "zeros: the smallest of all weights",
    "layer": "zeros: the smallest of each layer",
    "random": "zeros: at random in each layer",
    "blocks": "zeros: the smallest blocks of four input channels",
}
