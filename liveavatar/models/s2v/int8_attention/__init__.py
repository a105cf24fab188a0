"""8-bit self-attention on Hopper cards: int8 queries and keys, e4m3 probabilities and values. Off unless asked for.

arithmetic.py          what is computed, in plain PyTorch
operators.py           the same as operators for the compiler: arithmetic on the processor, kernels on a card
quantize_kernels.py    norm, rotation and quantisation in one pass (Triton)
attention_kernel.py    attention (Gluon)
launch.py              starts the kernels; the only module besides them that needs Triton
cache.py               the buffer of a layer, and the memory that self-attention sees
probe.py               whether all this works here
"""
