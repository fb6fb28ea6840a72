"""Graph neural networks over the sparse layer: GCN, GraphSAGE and RGCN inference, one compilation for every graph."""
