"""Detectors as files that run without sedet: ONNX and torch.export."""
