"""What makes training fast or possible on CPUs, applied to a network from outside."""
