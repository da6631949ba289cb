"""Qwen3-VL in llama.cpp's GGUF files, read directly: `--model PATH/model-Q4_K_M.gguf`, its mmproj beside it.

Every part stays as it is in the house: the metadata become the text files of a checkpoint, the tensors keep their
blocks on disk and are dequantised matrix by matrix while they are loaded (by the `gguf` package).
"""
