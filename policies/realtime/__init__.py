"""Methods of execution: real-time iteration, real-time chunking, backward coherence, temporal ensembling."""
