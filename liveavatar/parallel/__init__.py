"""How the model is spread over devices and host memory, applied to it from outside."""
