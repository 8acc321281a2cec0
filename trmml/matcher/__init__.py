"""The method: prompts, regions and prototypes on a frozen CLIP, and what it predicts."""
