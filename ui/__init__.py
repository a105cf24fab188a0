"""The web page, and nothing that another part of the product needs."""

import os

# Gradio reads this when it is imported. The page must not report anything to anybody.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
