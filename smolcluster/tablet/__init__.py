"""Stages on tablets: Core ML packages and ONNX files of a stage's layers, and the protocol in which they are computed."""
