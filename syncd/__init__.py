"""syncd keeps a ComfyUI models directory and a team's model catalog in step."""

__version__ = "0.1.0"
