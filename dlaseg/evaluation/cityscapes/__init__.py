"""The protocol of the Cityscapes benchmark."""
