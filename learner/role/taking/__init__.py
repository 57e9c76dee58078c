"""What a learner takes of topic `examples`, beside the weights that it learns."""
