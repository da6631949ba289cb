"""Training of the bundled checkpoint: a small Qwen3-VL mixture of experts that watches the generated world."""
