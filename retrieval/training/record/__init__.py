"""What a run leaves behind: its folder, checkpoints, figures by epoch, curves."""
