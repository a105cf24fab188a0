"""Exact bfloat16 attention of its own for Hopper cards, for contexts of many keys.

operator.py            the operator the compiler takes as it is, and what is left to PyTorch
attention_kernel.py    the kernel (Gluon)
combine_kernel.py      adds up attention to parts of the keys (Triton)
split.py               when and how the keys are divided into parts
launch.py              starts the kernels; the only module besides them that needs Triton
"""
