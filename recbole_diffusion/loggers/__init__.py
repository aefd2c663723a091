"""TensorBoard, Weights & Biases and MLflow, beside the files that every run writes."""
