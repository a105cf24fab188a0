"""Exact bfloat16 attention of its own for Hopper cards, for contexts of many keys.

operator.py            the operator the compiler takes as it is, and what is left to PyTorch
attention_kernel.py    the kernel (Gluon)
launch.py              starts it; the only module besides the kernel that needs Triton
"""
