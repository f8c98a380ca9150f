"""Stages on tablets: layers as Core ML packages and ONNX files, and the protocol that they are computed by."""
