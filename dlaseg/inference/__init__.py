"""From weights and images to label maps: the one prediction path."""
