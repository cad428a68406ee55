"""The Cityscapes benchmark's own protocol."""
