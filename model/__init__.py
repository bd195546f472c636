"""What is learned: the FEARec network, its losses, its training module and its export."""
