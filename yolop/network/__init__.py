"""YOLOv5 v6: modules, head, weights."""
