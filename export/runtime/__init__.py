"""The serving half: numpy, onnxruntime and tokenizers only."""
