"""Reading a Qwen3-VL checkpoint: config.json and safetensors, each rank only its own slices.

`index.open_checkpoint` looks (no torch, no weights), `load.load_qwen3_vl` loads.
"""
