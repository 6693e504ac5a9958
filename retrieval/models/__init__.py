"""What turns a picture into a descriptor: the specification, the backbones, the network, checkpoints and the zoo."""
