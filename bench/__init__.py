"""What things cost, side by side with something known, as ratios: `python -m bench`."""
