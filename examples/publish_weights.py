"""Publish a finished training run: python examples/publish_weights.py weights/NAME.yaml runs/NAME [numbers.json]."""

import json
import sys
from pathlib import Path

from neuroreg.training.publish import publish

if __name__ == "__main__":
    recipe, run, *numbers = map(Path, sys.argv[1:])
    figures = json.loads(numbers[0].read_text()) if numbers else None
    sys.stdout.write(f"{publish(recipe, run, recipe.parent, figures)}\n")
