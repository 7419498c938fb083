"""A trained model as one file: ONNX or torch.export."""
