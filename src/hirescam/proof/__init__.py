"""What is guaranteed about a map: operations, graph, laws, certificate, choice of the layer."""
