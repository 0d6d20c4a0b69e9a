"""Training: ultralytics' trainer, resumed and with zeros."""
