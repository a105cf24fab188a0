"""The little photo studio that renders the sample portraits (Blender's ``bpy`` module, Cycles)."""
